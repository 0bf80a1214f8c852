// Tables with the byte permutations of VBMI, which only this file may use.
#pragma GCC target("avx512vbmi")

#include <immintrin.h>

#include "look_up.h"

namespace kdnative::cpu::avx512vnni {

void look_up_vbmi(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out) {
  const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 64),
                t2 = _mm512_loadu_si512(table + 128), t3 = _mm512_loadu_si512(table + 192);
  const auto look_up = [&](__m512i codes) {  // the upper bit of a code chooses between the halves
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), _mm512_permutex2var_epi8(t0, codes, t1),
                                  _mm512_permutex2var_epi8(t2, codes, t3));
  };
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) _mm512_storeu_si512(out + i, look_up(_mm512_loadu_si512(x + i)));
  if (i < n) {
    const __mmask64 rest = (1ull << (n - i)) - 1;
    _mm512_mask_storeu_epi8(out + i, rest, look_up(_mm512_maskz_loadu_epi8(rest, x + i)));
  }
}

}  // namespace kdnative::cpu::avx512vnni
