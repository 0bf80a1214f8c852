#include <immintrin.h>

#include "../instruction_sets.h"

namespace kdnative::cpu::avx2 {

// vpshufb knows tables of sixteen bytes, and gives 0 for what is 128 or more. With the number of a part of the table
// taken off, the codes of this part are below 16, and adding 0x70 with saturation makes all others 128 or more.
void look_up(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    __m256i found = _mm256_setzero_si256();
    for (int part = 0; part < 16; ++part) {
      const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * part));
      const __m256i within = _mm256_xor_si256(codes, _mm256_set1_epi8(static_cast<char>(16 * part)));
      const __m256i index = _mm256_adds_epu8(within, _mm256_set1_epi8(0x70));
      found = _mm256_or_si256(found, _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), index));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), found);
  }
  for (; i < n; ++i) out[i] = table[x[i]];
}

}  // namespace kdnative::cpu::avx2
