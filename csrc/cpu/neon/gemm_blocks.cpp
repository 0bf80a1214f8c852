// Blocks of four outputs x one input with dot products.
//
// Rows of activations lie side by side, [k][16 rows]: the four inputs of a quad are four loads, which zips turn into
// operands of sdot (in each lane one row's four inputs), shared by the four outputs, whose weights are the lanes of one
// register.
#include "../instruction_sets.h"
#include "../simd/vec_neon.h"
// These are written against Vec and come after it.
#include "../simd/epilogue.h"
#include "../simd/sparse_blocks.h"
#include "dot.h"

namespace kdnative::cpu::neon {
namespace {

constexpr int64_t kOutputs = 4;  // of a block
constexpr int64_t kRows = 16;    // of activations in a register

// Sixteen rows (those from `rows` on count as zero) of 16 columns -> 16 columns of sixteen rows.
void transpose(const int8_t* q, int64_t ld, int64_t rows, int8_t* out) {
  int8x16_t x[16];
  for (int i = 0; i < 16; ++i) x[i] = i < rows ? vld1q_s8(q + i * ld) : vdupq_n_s8(0);
  // Four rounds of a perfect shuffle of the rows: each takes row i and row i + 8.
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
    int8x16_t y[16];
    for (int i = 0; i < 8; ++i) {
      y[2 * i] = vzip1q_s8(x[i], x[i + 8]);
      y[2 * i + 1] = vzip2q_s8(x[i], x[i + 8]);
    }
    for (int i = 0; i < 16; ++i) x[i] = y[i];
  }
  for (int i = 0; i < 16; ++i) vst1q_s8(out + i * kRows, x[i]);
}

// The operands of one quad: in each lane of x[v] the four inputs of one of the rows 4 v .. 4 v + 3.
inline void gather(const int8_t* panel, const uint16_t* index, int8x16_t (&x)[4]) {
  const int8x16_t a = vld1q_s8(panel + index[0] * kRows), b = vld1q_s8(panel + index[1] * kRows);
  const int8x16_t c = vld1q_s8(panel + index[2] * kRows), d = vld1q_s8(panel + index[3] * kRows);
  const int16x8_t first[2] = {vreinterpretq_s16_s8(vzip1q_s8(a, b)), vreinterpretq_s16_s8(vzip2q_s8(a, b))};
  const int16x8_t last[2] = {vreinterpretq_s16_s8(vzip1q_s8(c, d)), vreinterpretq_s16_s8(vzip2q_s8(c, d))};
  for (int half = 0; half < 2; ++half) {
    x[2 * half] = vreinterpretq_s8_s16(vzip1q_s16(first[half], last[half]));
    x[2 * half + 1] = vreinterpretq_s8_s16(vzip2q_s16(first[half], last[half]));
  }
}

// Four outputs of sixteen rows, to dot[row][kTileN]; false when an index is beyond k_pad.
bool block_row(const int8_t* panel, const int8_t* values, const uint16_t* index, int64_t quads, int64_t k_pad,
               int32_t* dot) {
  int32x4_t sum[kOutputs][4];
  for (auto& of_output : sum)
    for (int32x4_t& s : of_output) s = vdupq_n_s32(0);
  for (int64_t q = 0; q < quads; ++q, values += 16, index += 4) {
    if (index[0] >= k_pad || index[1] >= k_pad || index[2] >= k_pad || index[3] >= k_pad) return false;
    int8x16_t x[4];
    gather(panel, index, x);
    const int8x16_t weights = vld1q_s8(values);
    for_lanes([&](auto lane) {
      constexpr int output = lane.index;
      for (int v = 0; v < 4; ++v) sum[output][v] = add_products<output>(sum[output][v], x[v], weights);
    });
  }
  for (int v = 0; v < 4; ++v) {  // four outputs of a row go together
    const int32x4x4_t rows = {{sum[0][v], sum[1][v], sum[2][v], sum[3][v]}};
    int32_t at[16];
    vst4q_s32(at, rows);
    for (int i = 0; i < 4; ++i) vst1q_s32(dot + (4 * v + i) * kTileN, vld1q_s32(at + 4 * i));
  }
  return true;
}

const int8_t* panel_of(const uint8_t* panels, int64_t m, int64_t k_pad) {  // m: a multiple of kRows
  return reinterpret_cast<const int8_t*>(panels + m / kPanelRows * panel_bytes(k_pad)) + m % kPanelRows * k_pad;
}

}  // namespace

void arrange_rows(const QuantizedRows& a, int64_t m_begin, int64_t m_end, uint8_t* panels) {
  for (int64_t m = m_begin; m < m_end; m += kRows) {
    auto* panel = const_cast<int8_t*>(panel_of(panels, m, a.k_pad));
    for (int64_t k = 0; k < a.k_pad; k += 16) transpose(a.q + m * a.ld + k, a.ld, m_end - m, panel + k * kRows);
  }
}

bool gemm_blocks(const SparseLinear& w, const QuantizedRows& a, const uint8_t* panels, const Epilogue& e,
                 const GemmRange& range) {
  return for_blocks<kRows>(
      w, a, e, range, [&](int64_t m) { return panel_of(panels, m, a.k_pad); },
      [&](const auto* panel, int64_t, const FourOutputs& block, int32_t* dot) {
        return block_row(panel, block.values, block.index, block.quads, w.layer.k_pad, dot);
      });
}

}  // namespace kdnative::cpu::neon
