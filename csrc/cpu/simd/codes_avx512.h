// Codes of sixteen lanes: 64 bytes (requantize.h). Include it after vec_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace kdnative::cpu {
namespace {

// The first n of 64 bytes on (n may be beyond 0..64).
inline __mmask64 byte_mask(int64_t n) { return n <= 0 ? 0 : n >= 64 ? ~0ull : (1ull << n) - 1; }

struct Codes {
  static constexpr int64_t width = 64;
  __m512i v;

  static Codes set1(int32_t x) { return {_mm512_set1_epi8(static_cast<char>(x))}; }
  static Codes load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
  static Codes load(const uint8_t* p, int64_t n) { return {_mm512_maskz_loadu_epi8(byte_mask(n), p)}; }
  void store(uint8_t* p) const { _mm512_storeu_si512(p, v); }
  void store(uint8_t* p, int64_t n) const { _mm512_mask_storeu_epi8(p, byte_mask(n), v); }
};

inline Codes min(Codes a, Codes b) { return {_mm512_min_epu8(a.v, b.v)}; }
inline Codes max(Codes a, Codes b) { return {_mm512_max_epu8(a.v, b.v)}; }

inline Codes pack(const Vec (&x)[4]) {
  const __m512i low = _mm512_packs_epi32(_mm512_cvtps_epi32(x[0].v), _mm512_cvtps_epi32(x[1].v));
  const __m512i high = _mm512_packs_epi32(_mm512_cvtps_epi32(x[2].v), _mm512_cvtps_epi32(x[3].v));
  return {_mm512_packus_epi16(low, high)};
}

inline void unpack(Codes codes, Vec (&x)[4]) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i low = _mm512_unpacklo_epi8(codes.v, zero), high = _mm512_unpackhi_epi8(codes.v, zero);
  x[0].v = _mm512_cvtepi32_ps(_mm512_unpacklo_epi16(low, zero));
  x[1].v = _mm512_cvtepi32_ps(_mm512_unpackhi_epi16(low, zero));
  x[2].v = _mm512_cvtepi32_ps(_mm512_unpacklo_epi16(high, zero));
  x[3].v = _mm512_cvtepi32_ps(_mm512_unpackhi_epi16(high, zero));
}

// A matrix of 4 x 4 quads of bytes, transposed: it is its own inverse.
inline Codes in_order(Codes codes) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return {_mm512_permutexvar_epi32(order, codes.v)};
}
inline Codes out_of_order(Codes codes) { return in_order(codes); }

}  // namespace
}  // namespace kdnative::cpu
