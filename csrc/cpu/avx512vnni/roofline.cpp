// Ceilings of AVX-512 VNNI: see ../roofline.h.
#include <immintrin.h>

#include "../instruction_sets.h"

namespace kdnative::cpu::avx512vnni {

// One vpdpbusd is 64 multiply-accumulates.
int64_t int8_burst(int64_t rounds) {
  // Latency of 4 to 5 cycles on up to two ports: at least ten sums in flight. All loops over them are unrolled: they
  // must stay in registers.
  constexpr int kChains = 16;
  __m512i sum[kChains], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) {
    sum[c] = _mm512_setzero_si512();
    __asm__ volatile("" : "+v"(sum[c]));  // the compiler must not see that all sums are the same
  }
  for (int64_t i = 0; i < rounds; ++i) {
    __asm__("" : "+v"(a), "+v"(b));  // the compiler must not know the operands
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_dpbusd_epi32(sum[c], a, b);
  }
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) __asm__ volatile("" : : "v"(sum[c]));
  return rounds * kChains * 64 * 2;
}

uint64_t read_all(const uint8_t* p, size_t bytes) {
  __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  for (size_t i = 0; i < bytes; i += 512) {
#pragma GCC unroll 8
    for (size_t c = 0; c < 8; ++c) sum[c % 4] = _mm512_xor_si512(sum[c % 4], _mm512_load_si512(p + i + 64 * c));
  }
  const __m512i all = _mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3]));
  return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm512_castsi512_si128(all)));
}

}  // namespace kdnative::cpu::avx512vnni
