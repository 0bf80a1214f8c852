// Vec of eight lanes: AVX2, FMA, F16C. The operations and their NaN rules are those of vec_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../kernels.h"

namespace kdnative::cpu {
namespace {

// The first n of eight lanes on (n may be beyond 0..8).
inline __m256i lane_mask(int64_t n) {
  const int32_t count = n < 0 ? 0 : n > 8 ? 8 : static_cast<int32_t>(n);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

template <typename T>
inline void copy_lanes(T* to, const T* from, int64_t n) {
  for (int64_t i = 0; i < n && i < 8; ++i) to[i] = from[i];
}

struct Vec {
  static constexpr int64_t width = 8;
  __m256 v;

  static Vec set1(float x) { return {_mm256_set1_ps(x)}; }
  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const float* p, int64_t n) { return {_mm256_maskload_ps(p, lane_mask(n))}; }

  static Vec load_s8(const int8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
  }
  static Vec load_s8(const int8_t* p, int64_t n) {
    int8_t lanes[8] = {};
    copy_lanes(lanes, p, n);
    return load_s8(lanes);
  }
  static Vec load_s32(const int32_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }

  static Vec load_bf16(const uint16_t* p) {
    const __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(u, 16))};
  }
  static Vec load_bf16(const uint16_t* p, int64_t n) {
    uint16_t lanes[8] = {};
    copy_lanes(lanes, p, n);
    return load_bf16(lanes);
  }
  static Vec load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static Vec load_f16(const uint16_t* p, int64_t n) {
    uint16_t lanes[8] = {};
    copy_lanes(lanes, p, n);
    return load_f16(lanes);
  }

  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(float* p, int64_t n) const { _mm256_maskstore_ps(p, lane_mask(n), v); }

  void store_bf16(uint16_t* p) const {
    const __m256i u = _mm256_castps_si256(v), high = _mm256_srli_epi32(u, 16);
    const __m256i even = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), even), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i h = _mm256_blendv_epi8(rounded, quiet, nan);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm_packus_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
  }
  void store_bf16(uint16_t* p, int64_t n) const {
    uint16_t lanes[8];
    store_bf16(lanes);
    copy_lanes(p, lanes, n);
  }
  void store_f16(uint16_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  void store_f16(uint16_t* p, int64_t n) const {
    uint16_t lanes[8];
    store_f16(lanes);
    copy_lanes(p, lanes, n);
  }
};

struct Mask {
  __m256 m;
};

struct Word {  // eight lanes of 32 bits: fields of packed weights
  __m256i v;
  static Word load(const uint8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  static Word repeat(const uint8_t* p) {  // eight bytes, each of them four times
    const __m256i lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_mullo_epi32(lanes, _mm256_set1_epi32(0x01010101))};
  }
  void store(int8_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
};

// The four low bits from `shift` on of every byte; byte by byte, a product below 256 and a difference modulo 256.
template <int shift>
inline Word nibbles(Word w) {
  return {_mm256_and_si256(_mm256_srli_epi16(w.v, shift), _mm256_set1_epi8(15))};
}
// Both bytes of a pair at once: the lower product does not carry into the upper one.
inline Word scale_bytes(Word codes, Word factor) {
  return {_mm256_mullo_epi16(codes.v, _mm256_srli_epi16(factor.v, 8))};
}
inline Word subtract_bytes(Word a, Word b) { return {_mm256_sub_epi8(a.v, b.v)}; }

// The byte of every lane from bit `shift` on, signed; the `bits` bits from there on, unsigned.
template <int shift>
inline Vec signed_byte(Word w) {
  return {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(w.v, 24 - shift), 24))};
}
template <int shift, int bits>
inline Vec unsigned_field(Word w) {
  const __m256i mask = _mm256_set1_epi32((1 << bits) - 1);
  return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(w.v, shift), mask))};
}

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }  // a * b + c, rounded once
inline Vec keep(Vec a) {  // stays in its register: left alone, GCC moves accumulators to another and back
  __asm__ volatile("" : "+x"(a.v));
  return a;
}
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }  // b where either is NaN
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }  // b where either is NaN
inline Vec max_bits(Vec a, Vec b) {                                 // as unsigned integers
  return {_mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a.v), _mm256_castps_si256(b.v)))};
}
inline Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline Vec copy_sign(Vec magnitude, Vec sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(bit, magnitude.v), _mm256_and_ps(bit, sign.v))};
}
inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
inline Vec round(Vec a) {  // half to even
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

inline Mask operator<(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask operator>(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask operator==(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline Vec select(Mask m, Vec if_true, Vec if_false) { return {_mm256_blendv_ps(if_false.v, if_true.v, m.m)}; }

// v * 2^n by adding n to the exponent: n integral, v and the result normal. NaN stays NaN where n is NaN.
inline Vec scale2(Vec v, Vec n) {
  const __m256i shift = _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v.v), shift))};
}

// The nearest integers of four vectors, half to even, which must be in [-128, 127].
inline void store_s8(const Vec (&x)[4], int8_t* p) {
  const __m256i low = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0].v), _mm256_cvtps_epi32(x[1].v));
  const __m256i high = _mm256_packs_epi32(_mm256_cvtps_epi32(x[2].v), _mm256_cvtps_epi32(x[3].v));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i codes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), codes);
}

inline float reduce_add(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float reduce_max(Vec a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

}  // namespace
}  // namespace kdnative::cpu
