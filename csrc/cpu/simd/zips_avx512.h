// What the kernels of codes need beside codes_avx512.h and ints_avx512.h; include it after these.
//
// A register is made of parts of 16 bytes, and zips stay within them. Two zips make four vectors of a register, in the
// order that pack() takes them in: one after the other they have four bytes of every part.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace kdnative::cpu {
namespace {

inline Codes zip_low(Codes a, Codes b) { return {_mm512_unpacklo_epi8(a.v, b.v)}; }
inline Codes zip_high(Codes a, Codes b) { return {_mm512_unpackhi_epi8(a.v, b.v)}; }
inline Codes zip_pairs_low(Codes a, Codes b) { return {_mm512_unpacklo_epi16(a.v, b.v)}; }
inline Codes zip_pairs_high(Codes a, Codes b) { return {_mm512_unpackhi_epi16(a.v, b.v)}; }

// As words of 16 bits: sums modulo 2^16, and the dot products of pairs, signed.
inline Codes add_words(Codes a, Codes b) { return {_mm512_add_epi16(a.v, b.v)}; }
inline Ints pair_products(Codes a, Codes b) { return {_mm512_madd_epi16(a.v, b.v)}; }

inline Ints bits(Codes a) { return {a.v}; }
inline Codes bytes(Ints a) { return {a.v}; }
inline Ints operator-(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline Ints operator|(Ints a, Ints b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int count>
inline Ints shift_left(Ints a) {  // 32-bit lanes
  return {_mm512_slli_epi32(a.v, count)};
}
// Half to even; |v| is below 2^31.
inline Ints nearest(Vec v) { return {_mm512_cvtps_epi32(v.v)}; }

// Four floats for every part: those of part l are at p + l * step.
inline Vec load_fours(const float* p, int64_t step) {
  const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + step), 1);
  const __m256 high =
      _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + 2 * step)), _mm_loadu_ps(p + 3 * step), 1);
  return {_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)};
}

inline bool any(Mask m) { return m.m != 0; }
inline Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.m | b.m)}; }
inline Mask unordered(Vec a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline Mask no_lanes() { return {0}; }

}  // namespace
}  // namespace kdnative::cpu
