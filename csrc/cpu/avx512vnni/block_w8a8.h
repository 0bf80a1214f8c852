// A register block of int8 weights whose sums go on from piece to piece of k: up to 8 rows x 32 columns.
//
// vpdpbusd multiplies unsigned by signed bytes. The weights become unsigned by flipping the top bit (w + 128, one
// instruction shared by all rows), the activations are broadcast as they are, and 128 * (sum of the row) is taken out.
#pragma once

#include <immintrin.h>

#include "../simd/blocks.h"
#include "dot.h"

namespace kdnative::cpu::avx512vnni {
namespace {

// Two streams of bytes to fetch on the way, `step` bytes of each for four columns of k.
struct Ahead {
  const void* stream[2];
  int64_t step;

  void fetch(int64_t steps) const {
    for (const void* p : stream) _mm_prefetch(static_cast<const char*>(p) + steps * step, _MM_HINT_T0);
  }
};

// total[i][j] += the products of row i and the 16 columns of panel j, over `depth` columns of k, as if every weight
// were larger by 128.
template <int rows>
inline void add_block(const int8_t* b0, const int8_t* b1, const int8_t* q, int64_t ld, int64_t depth,
                      const Ahead& ahead, __m512i (&total)[rows][2]) {
  constexpr int kChains = rows == 1 ? 4 : rows == 2 ? 2 : 1;  // short blocks would wait for the latency of vpdpbusd
  const __m512i top = _mm512_set1_epi8(-128);
  __m512i sum[kChains][rows][2];
  for (int s = 0; s < kChains; ++s) {
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < 2; ++j) sum[s][i][j] = s == 0 ? total[i][j] : _mm512_setzero_si512();
  }
  for (int64_t k = 0; k < depth; k += 4 * kChains) {
    for (int s = 0; s < kChains; ++s) {
      const int64_t at = (k + 4 * s) * 16;
      ahead.fetch(k / 4 + s);
      const __m512i u0 = _mm512_xor_si512(_mm512_loadu_si512(b0 + at), top);
      const __m512i u1 = _mm512_xor_si512(_mm512_loadu_si512(b1 + at), top);
      for (int i = 0; i < rows; ++i) {
        const __m512i x = _mm512_set1_epi32(load_quad(q + i * ld + k + 4 * s));
        sum[s][i][0] = add_products(sum[s][i][0], u0, x);
        sum[s][i][1] = add_products(sum[s][i][1], u1, x);
      }
    }
  }
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < 2; ++j) {
      total[i][j] = sum[0][i][j];
      for (int s = 1; s < kChains; ++s) total[i][j] = _mm512_add_epi32(total[i][j], sum[s][i][j]);
    }
  }
}

}  // namespace
}  // namespace kdnative::cpu::avx512vnni
