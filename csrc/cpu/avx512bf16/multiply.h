// Bf16Product on the dot products of bf16 pairs (AVX512_BF16). Include it after vec_avx512.h.
#pragma once

#include <immintrin.h>

#include "../simd/blocks.h"
#include "product.h"

namespace kdnative::cpu::avx512bf16 {
namespace {

// As add_products of ../avx512vnni/dot.h: the empty statement keeps the sum in its register.
inline __m512 add_pairs(__m512 sum, __m512bh a, __m512bh b) {
  sum = _mm512_dpbf16_ps(sum, a, b);
  __asm__ volatile("" : "+v"(sum));
  return sum;
}

// Two blocks of 16 columns.
template <int rows>
void block(const Bf16Product& p, int64_t r, int64_t column) {
  const uint16_t *a = p.a + r * p.lda, *b0 = p.b + column / 16 * p.b_block, *b1 = b0 + p.b_block;
  __m512 sum[rows][2];
  for (int i = 0; i < rows; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (int64_t k = 0; k < p.depth; k += 2) {
    const auto low = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b0 + k * 16));
    const auto high = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b1 + k * 16));
    for (int i = 0; i < rows; ++i) {
      const auto pair =
          reinterpret_cast<__m512bh>(_mm512_set1_epi32(load_quad(reinterpret_cast<const int8_t*>(a + i * p.lda + k))));
      sum[i][0] = add_pairs(sum[i][0], pair, low);
      sum[i][1] = add_pairs(sum[i][1], pair, high);
    }
  }
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < 2; ++j) _mm512_storeu_ps(p.c + (r + i) * p.ldc + column + 16 * j, sum[i][j]);
  }
}

// In blocks of up to `most` rows; eight are 16 sums, which cover the latency of vdpbf16ps.
template <int most>
void multiply(const Bf16Product& p) {
  for (int64_t column = 0; column < p.columns; column += 32)
    for_row_blocks<most>(0, p.rows, [&](int64_t r, auto rows) { block<rows.count>(p, r, column); });
}

}  // namespace
}  // namespace kdnative::cpu::avx512bf16
