// Ints, the integer side of vec_avx2.h: 256 bits as eight 32-bit lanes, or as the bytes in them. Include that one
// first.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace kdnative::cpu {
namespace {

struct Ints {
  static constexpr int64_t width = 8;
  __m256i v;

  static Ints zero() { return {_mm256_setzero_si256()}; }
  static Ints set1(int32_t x) { return {_mm256_set1_epi32(x)}; }
  static Ints set1_s8(int8_t x) { return {_mm256_set1_epi8(x)}; }
  static Ints load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
  static Ints load_u8(const uint8_t* p) {  // a byte to a lane
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
  }
  void store(int32_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  Vec to_float() const { return {_mm256_cvtepi32_ps(v)}; }
};

inline Ints operator+(Ints a, Ints b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline Ints operator*(Ints a, Ints b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
inline Ints operator&(Ints a, Ints b) { return {_mm256_and_si256(a.v, b.v)}; }
inline Ints operator^(Ints a, Ints b) { return {_mm256_xor_si256(a.v, b.v)}; }
template <int bits>
inline Ints shift_words_right(Ints a) {  // 16-bit words, zeros come in
  return {_mm256_srli_epi16(a.v, bits)};
}
template <int bits>
inline Ints shift_right(Ints a) {  // 32-bit lanes, the sign comes in
  return {_mm256_srai_epi32(a.v, bits)};
}
inline int32_t reduce_add(Ints a) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

}  // namespace
}  // namespace kdnative::cpu
