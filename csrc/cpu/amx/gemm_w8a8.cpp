// int8 x int8 on AMX: 32 x 32 blocks, weights read as tiles straight from the packed buffer.
//
// A panel of 32 columns is cut along k so that the piece stays in L1 while all rows of a chunk pass by; sums of an
// unfinished k wait as int32 in a panel on the stack. Few rows can't fill a tile: they take the VNNI kernel, same bits.
#include "../avx512vnni/avx512vnni.h"
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/epilogue.h"
#include "amx.h"
#include "tiles.h"

namespace kdnative::cpu::amx {
namespace {

constexpr int64_t kVnniRows = 4;   // up to here weights are read faster than tiles would be filled
constexpr int64_t kDepth = 64;     // columns of k of one step
constexpr int64_t kPieceK = 1024;  // 32 KiB of weights
constexpr int64_t kStepBytes = kDepth * 16;

// Rows [m, end) of one column tile.
void column_tile(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t m, int64_t end, int64_t tile,
                 bool more_tiles, Tiles& tiles, int32_t* sums) {
  const int64_t pieces = (w.k_pad + kPieceK - 1) / kPieceK;
  const int64_t piece = (w.k_pad / kDepth + pieces - 1) / pieces * kDepth;
  const int64_t blocks = (end - m + kBlockRows - 1) / kBlockRows;
  const uint8_t* panel = w.data + tile * kTileN * w.k_pad;
  for (int64_t k = 0; k < w.k_pad; k += piece) {
    const int64_t steps = smaller(piece, w.k_pad - k) / kDepth;
    const bool last = k + steps * kDepth == w.k_pad;
    const uint8_t* next = last ? panel + kTileN * w.k_pad : panel + (k + piece) * 16;
    const bool fetch = !last || more_tiles;
    Prefetch prefetch(next, next + 16 * w.k_pad, fetch ? steps * kStepBytes : 0, blocks * steps);
    for (int64_t r = m; r < end; r += kBlockRows) {
      const int64_t rows = smaller(kBlockRows, end - r);
      tiles.shape(rows, kDepth);
      const auto* b = reinterpret_cast<const int8_t*>(panel) + k * 16;
      const Product product = {a.q + r * a.k_pad + k, a.k_pad, {b, b + 16 * w.k_pad}, steps, kDepth};
      int32_t* c = pieces == 1 ? sums : sums + (r - m) * kBlockColumns;
      if (last) fetch_output(e, r, rows, tile * kTileN, kTileN);
      multiply(rows, product, k > 0, c, prefetch);
      if (last) write_sums(w, a, e, r, rows, tile * kTileN, kTileN, c, kBlockColumns);
    }
  }
}

}  // namespace

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  if (range.m_end - range.m_begin <= kVnniRows) return avx512vnni::gemm_w8a8(w, a, e, range);
  alignas(64) int32_t sums[kChunkRows * kBlockColumns];
  Tiles tiles;
  for (int64_t m = range.m_begin; m < range.m_end; m += kChunkRows) {
    const int64_t end = smaller(m + kChunkRows, range.m_end);
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      column_tile(w, a, e, m, end, tile, tile + 1 < range.tile_end, tiles, sums);
    }
  }
}

}  // namespace kdnative::cpu::amx
