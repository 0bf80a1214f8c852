// The loop over rows and columns around a kernel of 4x1 blocks: four outputs of `kRows` rows that lie side by side.
//
// Written against the epilogue, which has to be included before it.
#pragma once

#include <cstdint>

#include "../kernels.h"

namespace kdnative::cpu {
namespace {

// Four outputs of a sparse layer: quads of inputs, each with 16 weights and 4 indices.
struct FourOutputs {
  const int8_t* values;
  const uint16_t* index;
  int64_t quads;
  int64_t first;  // output
};

// multiply(panel, rows, FourOutputs, dot) fills dot[row][kTileN] and is false when an index is beyond the inputs;
// panel_of(m) is where the rows from m on lie.
template <int64_t kRows, typename PanelOf, typename Multiply>
bool for_blocks(const SparseLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range,
                const PanelOf& panel_of, const Multiply& multiply) {
  constexpr int64_t kOutputs = 4, kBlocks = kTileN / kOutputs;
  alignas(64) int32_t dot[kRows * kTileN];
  for (int64_t m = range.m_begin; m < range.m_end; m += kRows) {
    const auto* panel = panel_of(m);
    const int64_t rows = range.m_end - m < kRows ? range.m_end - m : kRows;
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      fetch_output(e, m, rows, tile * kTileN, kTileN);
      for (int64_t b = 0; b < kBlocks; ++b) {
        const int64_t at = tile * kBlocks + b, start = w.start[at];
        const auto* values = reinterpret_cast<const int8_t*>(w.values) + 16 * start;
        const FourOutputs block{values, w.index + 4 * start, w.start[at + 1] - start, at * kOutputs};
        if (!multiply(panel, rows, block, dot + b * kOutputs)) return false;
      }
      write_sums(w.layer, a, e, m, rows, tile * kTileN, kTileN, dot, kTileN);
    }
  }
  return true;
}

}  // namespace
}  // namespace kdnative::cpu
