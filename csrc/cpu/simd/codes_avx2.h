// Codes of eight lanes: 32 bytes (requantize.h). Include it after vec_avx2.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace kdnative::cpu {
namespace {

struct Codes {
  static constexpr int64_t width = 32;
  __m256i v;

  static Codes set1(int32_t x) { return {_mm256_set1_epi8(static_cast<char>(x))}; }
  static Codes load(const uint8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  static Codes load(const uint8_t* p, int64_t n) {  // the first n; it may be beyond 0..32
    if (n >= width) return load(p);
    uint8_t bytes[width] = {};
    if (n > 0) std::memcpy(bytes, p, n);
    return load(bytes);
  }
  void store(uint8_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  void store(uint8_t* p, int64_t n) const {  // the first n, in pieces of 16, 8, 4 and 1
    if (n >= width) return store(p);
    __m128i rest = _mm256_castsi256_si128(v);
    if (n >= 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), rest);
      rest = _mm256_extracti128_si256(v, 1);
      p += 16, n -= 16;
    }
    if (n >= 8) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(p), rest);
      rest = _mm_unpackhi_epi64(rest, rest);
      p += 8, n -= 8;
    }
    auto bytes = static_cast<uint64_t>(_mm_cvtsi128_si64(rest));
    if (n >= 4) {
      std::memcpy(p, &bytes, 4);
      bytes >>= 32;
      p += 4, n -= 4;
    }
    for (; n > 0; --n, bytes >>= 8) *p++ = static_cast<uint8_t>(bytes);
  }
};

inline Codes min(Codes a, Codes b) { return {_mm256_min_epu8(a.v, b.v)}; }
inline Codes max(Codes a, Codes b) { return {_mm256_max_epu8(a.v, b.v)}; }

inline Codes pack(const Vec (&x)[4]) {
  const __m256i low = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0].v), _mm256_cvtps_epi32(x[1].v));
  const __m256i high = _mm256_packs_epi32(_mm256_cvtps_epi32(x[2].v), _mm256_cvtps_epi32(x[3].v));
  return {_mm256_packus_epi16(low, high)};
}

inline void unpack(Codes codes, Vec (&x)[4]) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i low = _mm256_unpacklo_epi8(codes.v, zero), high = _mm256_unpackhi_epi8(codes.v, zero);
  x[0].v = _mm256_cvtepi32_ps(_mm256_unpacklo_epi16(low, zero));
  x[1].v = _mm256_cvtepi32_ps(_mm256_unpackhi_epi16(low, zero));
  x[2].v = _mm256_cvtepi32_ps(_mm256_unpacklo_epi16(high, zero));
  x[3].v = _mm256_cvtepi32_ps(_mm256_unpackhi_epi16(high, zero));
}

inline Codes in_order(Codes codes) {
  return {_mm256_permutevar8x32_epi32(codes.v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))};
}
inline Codes out_of_order(Codes codes) {
  return {_mm256_permutevar8x32_epi32(codes.v, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7))};
}

}  // namespace
}  // namespace kdnative::cpu
