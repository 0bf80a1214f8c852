// Ceilings of AVX2: see ../roofline.h.
#include <immintrin.h>

#include "../instruction_sets.h"

namespace kdnative::cpu::avx2 {

// u8 x s8 products added in pairs, two pairs added in 16 bits, their sum widened to 32 bits and accumulated: 64
// multiply-accumulates in five instructions. The densest way AVX2 has, and exact where the activations are small enough
// (octets.h).
int64_t int8_burst(int64_t rounds) {
  // Enough independent sums to hide the latency of one. All loops over them are unrolled: they must stay in registers.
  constexpr int kChains = 8;
  __m256i sum[kChains], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5), d = _mm256_set1_epi8(7);
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int c = 0; c < kChains; ++c) {
    sum[c] = _mm256_setzero_si256();
    __asm__ volatile("" : "+x"(sum[c]));  // the compiler must not see that all sums are the same
  }
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c) {
      __asm__("" : "+x"(a), "+x"(b), "+x"(d));  // the compiler must not see that the products are the same each time
      const __m256i words = _mm256_add_epi16(_mm256_maddubs_epi16(a, b), _mm256_maddubs_epi16(a, d));
      sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(words, ones));
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < kChains; ++c) __asm__ volatile("" : : "x"(sum[c]));
  return rounds * kChains * 64 * 2;
}

uint64_t read_all(const uint8_t* p, size_t bytes) {
  __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
  for (size_t i = 0; i < bytes; i += 512) {
#pragma GCC unroll 16
    for (size_t c = 0; c < 16; ++c)
      sum[c % 4] = _mm256_xor_si256(sum[c % 4], _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + 32 * c)));
  }
  const __m256i all = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
  return static_cast<uint64_t>(_mm256_extract_epi64(all, 0) ^ _mm256_extract_epi64(all, 2));
}

}  // namespace kdnative::cpu::avx2
