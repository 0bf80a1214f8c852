#include <immintrin.h>

#include "../instruction_sets.h"

namespace kdnative::cpu::avx2 {
namespace {

inline __m256i entries(const uint8_t* table, int part) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table) + part));
}

// The entries of `count` registers of codes, by vpshufb, which has tables of sixteen bytes and gives 0 for an index of
// 128 or more. For each half of the table its eight parts follow one another, and codes lose 16 from one to the next:
// those that are used up, or belong to the other half, are negative, that is 128 or more. So a code finds something in
// its own part and in all parts of the half before it; these are taken as differences to the part before them (by
// exclusive or), whose sum is the entry.
template <int count>
inline void look_up_registers(const uint8_t* x, const uint8_t* table, uint8_t* out) {
  const __m256i sixteen = _mm256_set1_epi8(16), other_half = _mm256_set1_epi8(-128);
  __m256i codes[count], found[count];
#pragma GCC unroll 2
  for (int i = 0; i < count; ++i) {
    codes[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x) + i);
    found[i] = _mm256_setzero_si256();
  }
  for (int half = 0; half < 2; ++half) {
    __m256i index[count], before = _mm256_setzero_si256();
#pragma GCC unroll 2
    for (int i = 0; i < count; ++i) index[i] = half == 0 ? codes[i] : _mm256_xor_si256(codes[i], other_half);
#pragma GCC unroll 8
    for (int part = 0; part < 8; ++part) {
      const __m256i here = entries(table, 8 * half + part), difference = _mm256_xor_si256(here, before);
      before = here;
#pragma GCC unroll 2
      for (int i = 0; i < count; ++i) {
        found[i] = _mm256_xor_si256(found[i], _mm256_shuffle_epi8(difference, index[i]));
        index[i] = _mm256_subs_epi8(index[i], sixteen);
      }
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < count; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out) + i, found[i]);
}

}  // namespace

void look_up(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out) {
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) look_up_registers<2>(x + i, table, out + i);
  for (; i + 32 <= n; i += 32) look_up_registers<1>(x + i, table, out + i);
  for (; i < n; ++i) out[i] = table[x[i]];
}

}  // namespace kdnative::cpu::avx2
