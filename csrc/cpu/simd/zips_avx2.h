// What the kernels of codes need beside codes_avx2.h and ints_avx2.h; include it after these. The operations are those
// of zips_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace kdnative::cpu {
namespace {

inline Codes operator^(Codes a, Codes b) { return {_mm256_xor_si256(a.v, b.v)}; }
inline Codes zip_low(Codes a, Codes b) { return {_mm256_unpacklo_epi8(a.v, b.v)}; }
inline Codes zip_high(Codes a, Codes b) { return {_mm256_unpackhi_epi8(a.v, b.v)}; }
inline Codes zip_pairs_low(Codes a, Codes b) { return {_mm256_unpacklo_epi16(a.v, b.v)}; }
inline Codes zip_pairs_high(Codes a, Codes b) { return {_mm256_unpackhi_epi16(a.v, b.v)}; }

inline Codes add_words(Codes a, Codes b) { return {_mm256_add_epi16(a.v, b.v)}; }
inline Ints pair_products(Codes a, Codes b) { return {_mm256_madd_epi16(a.v, b.v)}; }

inline Ints bits(Codes a) { return {a.v}; }
inline Codes bytes(Ints a) { return {a.v}; }
inline Ints operator-(Ints a, Ints b) { return {_mm256_sub_epi32(a.v, b.v)}; }
inline Ints operator|(Ints a, Ints b) { return {_mm256_or_si256(a.v, b.v)}; }
template <int count>
inline Ints shift_left(Ints a) {  // 32-bit lanes
  return {_mm256_slli_epi32(a.v, count)};
}
inline Ints nearest(Vec v) { return {_mm256_cvtps_epi32(v.v)}; }

inline Vec load_fours(const float* p, int64_t step) {
  return {_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + step), 1)};
}

inline bool any(Mask m) { return _mm256_movemask_ps(m.m) != 0; }
inline Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.m, b.m)}; }
inline Mask unordered(Vec a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
inline Mask no_lanes() { return {_mm256_setzero_ps()}; }

}  // namespace
}  // namespace kdnative::cpu
