// int8 x int8 with dot products: blocks of up to 6 rows x 16 columns.
//
// A quad of k of four columns is one register of weights, read as it lies in memory; sdot multiplies it by one of the
// four quads of activations that a register holds. Both are signed, so nothing has to be corrected afterwards.
#include "../simd/vec_neon.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "dot.h"

namespace kdnative::cpu::neon {
namespace {

constexpr int kMaxRows = 6;  // 24 sums, 6 registers of activations, 2 of weights: all 32

template <int rows>
void block(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t c) {
  constexpr int kChains = rows == 1 ? 4 : rows == 2 ? 2 : 1;  // short blocks would wait for the latency of sdot
  const int8_t* b = reinterpret_cast<const int8_t*>(w.data) + c * w.k_pad;
  const int8_t* q = a.q + r * a.ld;
  fetch_output(e, r, rows, c, 16);
  int32x4_t sum[kChains][rows][4];
  for (int s = 0; s < kChains; ++s)
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < 4; ++j) sum[s][i][j] = vdupq_n_s32(0);
  for (int64_t k = 0; k < w.k_pad; k += 16) {
    int8x16_t x[rows];
    for (int i = 0; i < rows; ++i) x[i] = vld1q_s8(q + i * a.ld + k);
    for_lanes([&](auto quad) {
      constexpr int chain = quad.index % kChains;
      for (int j = 0; j < 4; ++j, b += 16) {
        const int8x16_t weights = vld1q_s8(b);
        for (int i = 0; i < rows; ++i) sum[chain][i][j] = add_products<quad.index>(sum[chain][i][j], weights, x[i]);
      }
    });
  }
  int32_t dot[rows][16];
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < 4; ++j) {
      for (int s = 1; s < kChains; ++s) sum[0][i][j] = vaddq_s32(sum[0][i][j], sum[s][i][j]);
      vst1q_s32(dot[i] + 4 * j, sum[0][i][j]);
    }
  }
  write_sums(w, a, e, r, rows, c, 16, dot[0], 16);
}

}  // namespace

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk) {
    const int64_t end = m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end;
    for (int64_t c = range.tile_begin * kTileN; c < range.tile_end * kTileN && c < w.n; c += 16) {
      for_row_blocks<kMaxRows>(m, end, [&](int64_t r, auto rows) { block<rows.count>(w, a, e, r, c); });
    }
  }
}

}  // namespace kdnative::cpu::neon
