// Ceiling of AVX-VNNI: see ../roofline.h.
#include <immintrin.h>

#include "../instruction_sets.h"

namespace kdnative::cpu::avxvnni {

// One vpdpbusd is 32 multiply-accumulates.
int64_t int8_burst(int64_t rounds) {
  // Latency of 4 to 5 cycles on up to two ports: at least ten sums in flight. All loops over them are unrolled: they
  // must stay in registers.
  constexpr int kChains = 12;
  __m256i sum[kChains], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) {
    sum[c] = _mm256_setzero_si256();
    __asm__ volatile("" : "+x"(sum[c]));  // the compiler must not see that all sums are the same
  }
  for (int64_t i = 0; i < rounds; ++i) {
    __asm__("" : "+x"(a), "+x"(b));  // the compiler must not know the operands
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sum[c] = _mm256_dpbusd_avx_epi32(sum[c], a, b);
  }
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) __asm__ volatile("" : : "x"(sum[c]));
  return rounds * kChains * 32 * 2;
}

}  // namespace kdnative::cpu::avxvnni
