// Tables without VBMI: vpermi2w finds the word of two entries, a shift the entry.
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/codes_avx512.h"
#include "look_up.h"

namespace kdnative::cpu::avx512vnni {
namespace {

// table[x] in the low byte of every word; x is in [0, 255].
inline __m512i look_up_words(__m512i x, const __m512i (&part)[4]) {
  const __m512i index = _mm512_srli_epi16(x, 1);
  const __m512i low = _mm512_permutex2var_epi16(part[0], index, part[1]);
  const __m512i high = _mm512_permutex2var_epi16(part[2], index, part[3]);
  const __m512i pair = _mm512_mask_blend_epi16(_mm512_test_epi16_mask(x, _mm512_set1_epi16(128)), low, high);
  const __m512i shift = _mm512_slli_epi16(_mm512_and_si512(x, _mm512_set1_epi16(1)), 3);
  return _mm512_and_si512(_mm512_srlv_epi16(pair, shift), _mm512_set1_epi16(255));
}

}  // namespace

void look_up_rows_words(uint8_t* const* row, int64_t rows, int64_t n, const uint8_t* table) {
  __m512i part[4];
  for (int i = 0; i < 4; ++i) part[i] = _mm512_load_si512(table + 64 * i);
  for (int64_t i = 0; i < rows; ++i) {
    const __m512i x = Codes::load(row[i], n).v;
    const __m512i even = look_up_words(_mm512_and_si512(x, _mm512_set1_epi16(255)), part);
    const __m512i odd = look_up_words(_mm512_srli_epi16(x, 8), part);
    Codes{_mm512_or_si512(even, _mm512_slli_epi16(odd, 8))}.store(row[i], n);
  }
}

}  // namespace kdnative::cpu::avx512vnni
