// Tables with vpermi2b, which only this file may use.
#pragma GCC target("avx512vbmi")

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
    const __m512i low = _mm512_permutex2var_epi8(part[0], x.v, part[1]);
    const __m512i high = _mm512_permutex2var_epi8(part[2], x.v, part[3]);
    return {_mm512_mask_blend_epi8(_mm512_movepi8_mask(x.v), low, high)};
  }
  __m512i part[4];
};

}  // namespace

void look_up_rows_vbmi(uint8_t* const* row, int64_t rows, int64_t first, int64_t n, const uint8_t* table) {
  for_rows(row, rows, first, n, Table(table));
}

void look_up_vbmi(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out) {
  for_line(x, n, Table(table), out);
}

}  // namespace kdnative::cpu::avx512vnni
