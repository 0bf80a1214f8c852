// What the smmla kernels share. The instruction multiplies two rows by two columns, eight k each, into 2 x 2 sums.
//
// A panel is 16 columns of weights in that shape, [k / 8][16 columns][8 k]. Two quads of the packed layout make it with
// one zip a register, and all rows of a chunk use it.
#pragma once

#include <arm_neon.h>

#include "../simd/blocks.h"

namespace kdnative::cpu::i8mm {
namespace {

constexpr int64_t kPanelColumns = 16;
constexpr int kMaxPairs = 3;  // pairs of rows of a block: 24 sums, 3 operands from the rows, 1 from the panel
constexpr int kOperands = 8;  // of eight k of a panel, two columns each

// Four columns at eight consecutive k, given as two quads, to a panel.
inline void put_columns(int8x16_t quad, int8x16_t next, int8_t* panel) {
  const int32x4_t low = vreinterpretq_s32_s8(quad), high = vreinterpretq_s32_s8(next);
  vst1q_s8(panel, vreinterpretq_s8_s32(vzip1q_s32(low, high)));
  vst1q_s8(panel + 16, vreinterpretq_s8_s32(vzip2q_s32(low, high)));
}

// Sums of a block: sum[p][j] holds rows 2 p and 2 p + 1, columns 2 j and 2 j + 1.
template <int pairs>
using Sums = int32x4_t[pairs][kOperands];

// The products of rows [r, r + rows), rows <= 2 * pairs, over `depth` (a multiple of 8) columns from k on. Without a
// partner the last row is multiplied twice.
template <int pairs>
inline void multiply(const QuantizedRows& a, int64_t r, int64_t rows, int64_t k, int64_t depth, const int8_t* panel,
                     Sums<pairs>& sum) {
  const int8_t* q[2 * pairs];
  for (int i = 0; i < 2 * pairs; ++i) q[i] = a.q + (r + (i < rows ? i : rows - 1)) * a.ld + k;
  for (int p = 0; p < pairs; ++p)
    for (int j = 0; j < kOperands; ++j) sum[p][j] = vdupq_n_s32(0);
  for (int64_t at = 0; at < depth; at += 8, panel += 8 * kPanelColumns) {
    int8x16_t x[pairs];
#pragma GCC unroll 3
    for (int p = 0; p < pairs; ++p) x[p] = vcombine_s8(vld1_s8(q[2 * p] + at), vld1_s8(q[2 * p + 1] + at));
#pragma GCC unroll 8
    for (int j = 0; j < kOperands; ++j) {
      const int8x16_t weights = vld1q_s8(panel + 16 * j);
#pragma GCC unroll 3
      for (int p = 0; p < pairs; ++p) sum[p][j] = vmmlaq_s32(sum[p][j], x[p], weights);
    }
  }
}

// f(row, column, sums of four columns) over the block.
template <int pairs, typename F>
inline void for_sums(const Sums<pairs>& sum, int64_t rows, const F& f) {
  for (int p = 0; p < pairs; ++p) {
    for (int j = 0; j < kOperands; j += 2) {
      const int64x2_t left = vreinterpretq_s64_s32(sum[p][j]), right = vreinterpretq_s64_s32(sum[p][j + 1]);
      f(2 * p, 2 * j, vreinterpretq_s32_s64(vzip1q_s64(left, right)));
      if (2 * p + 1 < rows) f(2 * p + 1, 2 * j, vreinterpretq_s32_s64(vzip2q_s64(left, right)));
    }
  }
}

// f(first row, rows, Rows<pairs>) over [begin, end).
template <typename F>
inline void for_pairs(int64_t begin, int64_t end, const F& f) {
  for_row_blocks<kMaxPairs>(0, (end - begin + 1) / 2, [&](int64_t pair, auto pairs) {
    const int64_t r = begin + 2 * pair, rows = end - r < 2 * pairs.count ? end - r : 2 * pairs.count;
    f(r, rows, pairs);
  });
}

// f(first row, end) for every chunk of rows that reuse a panel: even ones, since few rows would not pay for a panel.
template <typename F>
inline void for_chunks(const GemmRange& range, const F& f) {
  const int64_t rows = range.m_end - range.m_begin, chunks = (rows + kRowChunk - 1) / kRowChunk;
  if (rows == 0) return;
  const int64_t step = ((rows + chunks - 1) / chunks + 1) / 2 * 2;
  for (int64_t m = range.m_begin; m < range.m_end; m += step) f(m, m + step < range.m_end ? m + step : range.m_end);
}

}  // namespace
}  // namespace kdnative::cpu::i8mm
