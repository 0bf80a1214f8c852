// Vec of sixteen lanes: AVX-512 F, BW, VL, DQ. The operations and their NaN rules are those of vec_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../kernels.h"

namespace kdnative::cpu {
namespace {

// The first n of sixteen lanes on (n may be beyond 0..16).
inline __mmask16 lane_mask(int64_t n) {
  return static_cast<__mmask16>(n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << static_cast<uint32_t>(n)) - 1u);
}

struct Vec {
  static constexpr int64_t width = 16;
  __m512 v;

  static Vec set1(float x) { return {_mm512_set1_ps(x)}; }
  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(lane_mask(n), p)}; }

  static Vec from_s8(__m128i x) { return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x))}; }
  static Vec load_s8(const int8_t* p) { return from_s8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Vec load_s8(const int8_t* p, int64_t n) { return from_s8(_mm_maskz_loadu_epi8(lane_mask(n), p)); }
  static Vec load_s32(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }

  static Vec from_bf16(__m256i x) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))}; }
  static Vec load_bf16(const uint16_t* p) { return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static Vec load_bf16(const uint16_t* p, int64_t n) { return from_bf16(_mm256_maskz_loadu_epi16(lane_mask(n), p)); }
  static Vec load_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Vec load_f16(const uint16_t* p, int64_t n) {
    return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lane_mask(n), p))};
  }

  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, lane_mask(n), v); }

  __m256i to_bf16() const {
    const __m512i u = _mm512_castps_si512(v), high = _mm512_srli_epi32(u, 16);
    const __m512i even = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), even), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)));
  }
  void store_bf16(uint16_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16()); }
  void store_bf16(uint16_t* p, int64_t n) const { _mm256_mask_storeu_epi16(p, lane_mask(n), to_bf16()); }
  void store_f16(uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  void store_f16(uint16_t* p, int64_t n) const {
    _mm256_mask_storeu_epi16(p, lane_mask(n), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
};

struct Mask {
  __mmask16 m;
};

struct Word {  // sixteen lanes of 32 bits: fields of packed weights
  __m512i v;
  static Word load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
  static Word repeat(const uint8_t* p) {  // sixteen bytes, each of them four times
    const __m512i lanes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm512_mullo_epi32(lanes, _mm512_set1_epi32(0x01010101))};
  }
  void store(int8_t* p) const { _mm512_storeu_si512(p, v); }
};

// The four low bits from `shift` on of every byte; byte by byte, a product below 256 and a difference modulo 256.
template <int shift>
inline Word nibbles(Word w) {
  return {_mm512_and_si512(_mm512_srli_epi16(w.v, shift), _mm512_set1_epi8(15))};
}
// Both bytes of a pair at once: the lower product does not carry into the upper one.
inline Word scale_bytes(Word codes, Word factor) {
  return {_mm512_mullo_epi16(codes.v, _mm512_srli_epi16(factor.v, 8))};
}
inline Word subtract_bytes(Word a, Word b) { return {_mm512_sub_epi8(a.v, b.v)}; }

// The byte of every lane from bit `shift` on, signed; the `bits` bits from there on, unsigned.
template <int shift>
inline Vec signed_byte(Word w) {
  return {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(w.v, 24 - shift), 24))};
}
template <int shift, int bits>
inline Vec unsigned_field(Word w) {
  const __m512i field = _mm512_srli_epi32(w.v, shift);
  if constexpr (bits == 4) {  // vpermps reads the low four bits of an index and no others
    return {_mm512_permutexvar_ps(field, _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))};
  }
  return {_mm512_cvtepi32_ps(_mm512_and_si512(field, _mm512_set1_epi32((1 << bits) - 1)))};
}

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }  // a * b + c, rounded once
inline Vec keep(Vec a) {  // stays in its register: left alone, GCC moves accumulators to another and back
  __asm__ volatile("" : "+v"(a.v));
  return a;
}
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }  // b where either is NaN
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }  // b where either is NaN
inline Vec max_bits(Vec a, Vec b) {                                 // as unsigned integers
  return {_mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))};
}
inline Vec abs(Vec a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
inline Vec copy_sign(Vec magnitude, Vec sign) {
  const __m512 bit = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(bit, magnitude.v), _mm512_and_ps(bit, sign.v))};
}
inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec round(Vec a) {  // half to even
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

inline Mask operator<(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask operator>(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask operator==(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline Vec select(Mask m, Vec if_true, Vec if_false) { return {_mm512_mask_blend_ps(m.m, if_false.v, if_true.v)}; }

// v * 2^n by adding n to the exponent: n integral, v and the result normal. NaN stays NaN where n is NaN.
inline Vec scale2(Vec v, Vec n) {
  const __m512i shift = _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v.v), shift))};
}

// The nearest integers of four vectors, half to even, which must be in [-128, 127].
inline void store_s8(const Vec (&x)[4], int8_t* p) {
  const __m512i low = _mm512_packs_epi32(_mm512_cvtps_epi32(x[0].v), _mm512_cvtps_epi32(x[1].v));
  const __m512i high = _mm512_packs_epi32(_mm512_cvtps_epi32(x[2].v), _mm512_cvtps_epi32(x[3].v));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high)));
}

inline float reduce_add(Vec a) { return _mm512_reduce_add_ps(a.v); }
inline float reduce_max(Vec a) { return _mm512_reduce_max_ps(a.v); }

}  // namespace
}  // namespace kdnative::cpu
