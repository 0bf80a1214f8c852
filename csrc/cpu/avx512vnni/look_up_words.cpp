// Tables without VBMI: vpermi2w finds the word of two entries, a shift the entry.
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/codes_avx512.h"
// These are written against Codes and come after it.
#include "look_up.h"
#include "look_up_loops.h"

namespace kdnative::cpu::avx512vnni {
namespace {

struct Table {
  explicit Table(const uint8_t* table) {
    for (int i = 0; i < 4; ++i) part[i] = _mm512_loadu_si512(table + 64 * i);
  }
  Codes find(Codes x) const {
    const __m512i even = of_words(_mm512_and_si512(x.v, _mm512_set1_epi16(255)));
    const __m512i odd = of_words(_mm512_srli_epi16(x.v, 8));
    return {_mm512_or_si512(even, _mm512_slli_epi16(odd, 8))};
  }
  // table[x] in the low byte of every word; x is in [0, 255].
  __m512i of_words(__m512i x) const {
    const __m512i index = _mm512_srli_epi16(x, 1);
    const __m512i low = _mm512_permutex2var_epi16(part[0], index, part[1]);
    const __m512i high = _mm512_permutex2var_epi16(part[2], index, part[3]);
    const __m512i pair = _mm512_mask_blend_epi16(_mm512_test_epi16_mask(x, _mm512_set1_epi16(128)), low, high);
    const __m512i shift = _mm512_slli_epi16(_mm512_and_si512(x, _mm512_set1_epi16(1)), 3);
    return _mm512_and_si512(_mm512_srlv_epi16(pair, shift), _mm512_set1_epi16(255));
  }
  __m512i part[4];
};

}  // namespace

void look_up_rows_words(uint8_t* const* row, int64_t rows, int64_t first, int64_t n, const uint8_t* table) {
  for_rows(row, rows, first, n, Table(table));
}

void look_up_words(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out) {
  for_line(x, n, Table(table), out);
}

}  // namespace kdnative::cpu::avx512vnni
