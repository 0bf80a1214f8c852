// Ints, the integer side of vec_avx512.h: 512 bits as sixteen 32-bit lanes, or as the bytes in them. Include that one
// first.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace kdnative::cpu {
namespace {

struct Ints {
  static constexpr int64_t width = 16;
  __m512i v;

  static Ints zero() { return {_mm512_setzero_si512()}; }
  static Ints set1(int32_t x) { return {_mm512_set1_epi32(x)}; }
  static Ints set1_s8(int8_t x) { return {_mm512_set1_epi8(x)}; }
  static Ints load(const void* p) { return {_mm512_loadu_si512(p)}; }
  static Ints load_u8(const uint8_t* p) {  // a byte to a lane
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  void store(int32_t* p) const { _mm512_storeu_si512(p, v); }
  Vec to_float() const { return {_mm512_cvtepi32_ps(v)}; }
};

inline Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline Ints operator*(Ints a, Ints b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline Ints operator&(Ints a, Ints b) { return {_mm512_and_si512(a.v, b.v)}; }
inline Ints operator^(Ints a, Ints b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int bits>
inline Ints shift_words_right(Ints a) {  // 16-bit words, zeros come in
  return {_mm512_srli_epi16(a.v, bits)};
}
template <int bits>
inline Ints shift_right(Ints a) {  // 32-bit lanes, the sign comes in
  return {_mm512_srai_epi32(a.v, bits)};
}
inline int32_t reduce_add(Ints a) { return _mm512_reduce_add_epi32(a.v); }

}  // namespace
}  // namespace kdnative::cpu
