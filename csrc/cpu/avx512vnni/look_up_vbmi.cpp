// Tables with vpermi2b, which only this file may use.
#pragma GCC target("avx512vbmi")

#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/codes_avx512.h"
#include "look_up.h"

namespace kdnative::cpu::avx512vnni {

void look_up_rows_vbmi(uint8_t* const* row, int64_t rows, int64_t n, const uint8_t* table) {
  __m512i part[4];
  for (int i = 0; i < 4; ++i) part[i] = _mm512_load_si512(table + 64 * i);
  for (int64_t i = 0; i < rows; ++i) {
    const __m512i x = Codes::load(row[i], n).v;
    const __m512i low = _mm512_permutex2var_epi8(part[0], x, part[1]);
    const __m512i high = _mm512_permutex2var_epi8(part[2], x, part[3]);
    Codes{_mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high)}.store(row[i], n);
  }
}

}  // namespace kdnative::cpu::avx512vnni
