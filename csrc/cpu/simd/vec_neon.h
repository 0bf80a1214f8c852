// Vec of four lanes: Advanced SIMD of AArch64. The operations and their NaN rules are those of vec_scalar.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "../kernels.h"

namespace kdnative::cpu {
namespace {

template <typename T>
inline void copy_lanes(T* to, const T* from, int64_t n) {
  for (int64_t i = 0; i < n && i < 4; ++i) to[i] = from[i];
}

// Four elements, of which the first n (it may be beyond 0..4) are those at p and the others 0.
template <typename T>
struct Lanes {
  Lanes(const T* p, int64_t n) { copy_lanes(at, p, n); }
  T at[4] = {};
};

struct Vec {
  static constexpr int64_t width = 4;
  float32x4_t v;

  static Vec set1(float x) { return {vdupq_n_f32(x)}; }
  static Vec zero() { return set1(0.0f); }
  static Vec load(const float* p) { return {vld1q_f32(p)}; }
  static Vec load(const float* p, int64_t n) { return load(Lanes<float>(p, n).at); }

  static Vec load_s8(const int8_t* p) {
    int32_t bytes;  // four, and no more may be read
    std::memcpy(&bytes, p, sizeof(bytes));
    const int16x8_t words = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes)));
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)))};
  }
  static Vec load_s8(const int8_t* p, int64_t n) { return load_s8(Lanes<int8_t>(p, n).at); }
  static Vec load_s32(const int32_t* p) { return {vcvtq_f32_s32(vld1q_s32(p))}; }

  static Vec load_bf16(const uint16_t* p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
  static Vec load_bf16(const uint16_t* p, int64_t n) { return load_bf16(Lanes<uint16_t>(p, n).at); }
  static Vec load_f16(const uint16_t* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
  static Vec load_f16(const uint16_t* p, int64_t n) { return load_f16(Lanes<uint16_t>(p, n).at); }

  void store(float* p) const { vst1q_f32(p, v); }
  void store(float* p, int64_t n) const {
    float lanes[4];
    store(lanes);
    copy_lanes(p, lanes, n);
  }

  void store_bf16(uint16_t* p) const {
    const uint32x4_t u = vreinterpretq_u32_f32(v), high = vshrq_n_u32(u, 16);
    const uint32x4_t even = vandq_u32(high, vdupq_n_u32(1));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), even), 16);
    const uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
    vst1_u16(p, vmovn_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet)));
  }
  void store_bf16(uint16_t* p, int64_t n) const {
    uint16_t lanes[4];
    store_bf16(lanes);
    copy_lanes(p, lanes, n);
  }
  void store_f16(uint16_t* p) const { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
  void store_f16(uint16_t* p, int64_t n) const {
    uint16_t lanes[4];
    store_f16(lanes);
    copy_lanes(p, lanes, n);
  }
};

struct Mask {
  uint32x4_t m;
};

struct Word {  // four lanes of 32 bits: fields of packed weights
  uint32x4_t v;
  static Word load(const uint8_t* p) { return {vreinterpretq_u32_u8(vld1q_u8(p))}; }
  static Word repeat(const uint8_t* p) {  // four bytes, each of them four times
    uint32_t bytes;
    std::memcpy(&bytes, p, sizeof(bytes));
    const uint32x4_t lanes = vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)))));
    return {vmulq_n_u32(lanes, 0x01010101u)};
  }
  void store(int8_t* p) const { vst1q_s8(p, vreinterpretq_s8_u32(v)); }
};

// The four low bits from `shift` on of every byte; byte by byte, a product below 256 and a difference modulo 256.
template <int shift>
inline Word nibbles(Word w) {
  uint8x16_t bytes = vreinterpretq_u8_u32(w.v);
  if constexpr (shift > 0) bytes = vshrq_n_u8(bytes, shift);
  return {vreinterpretq_u32_u8(vandq_u8(bytes, vdupq_n_u8(15)))};
}
inline Word scale_bytes(Word codes, Word factor) {
  return {vreinterpretq_u32_u8(vmulq_u8(vreinterpretq_u8_u32(codes.v), vreinterpretq_u8_u32(factor.v)))};
}
inline Word subtract_bytes(Word a, Word b) {
  return {vreinterpretq_u32_u8(vsubq_u8(vreinterpretq_u8_u32(a.v), vreinterpretq_u8_u32(b.v)))};
}

// The byte of every lane from bit `shift` on, signed; the `bits` bits from there on, unsigned.
template <int shift>
inline Vec signed_byte(Word w) {
  return {vcvtq_f32_s32(vshrq_n_s32(vshlq_n_s32(vreinterpretq_s32_u32(w.v), 24 - shift), 24))};
}
template <int shift, int bits>
inline Vec unsigned_field(Word w) {
  uint32x4_t field = w.v;
  if constexpr (shift > 0) field = vshrq_n_u32(field, shift);
  return {vcvtq_f32_u32(vandq_u32(field, vdupq_n_u32((1u << bits) - 1)))};
}

inline Mask operator<(Vec a, Vec b) { return {vcltq_f32(a.v, b.v)}; }
inline Mask operator>(Vec a, Vec b) { return {vcgtq_f32(a.v, b.v)}; }
inline Mask operator==(Vec a, Vec b) { return {vceqq_f32(a.v, b.v)}; }
inline Vec select(Mask m, Vec if_true, Vec if_false) { return {vbslq_f32(m.m, if_true.v, if_false.v)}; }

inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }  // a * b + c, rounded once
inline Vec keep(Vec a) { return a; }                                        // stays in its register
// FMIN and FMAX would return NaN where either operand is NaN; the rule here is b.
inline Vec min(Vec a, Vec b) { return select(a < b, a, b); }
inline Vec max(Vec a, Vec b) { return select(a > b, a, b); }
inline Vec max_bits(Vec a, Vec b) {  // as unsigned integers
  return {vreinterpretq_f32_u32(vmaxq_u32(vreinterpretq_u32_f32(a.v), vreinterpretq_u32_f32(b.v)))};
}
inline Vec abs(Vec a) { return {vabsq_f32(a.v)}; }
inline Vec copy_sign(Vec magnitude, Vec sign) { return {vbslq_f32(vdupq_n_u32(0x80000000u), sign.v, magnitude.v)}; }
inline Vec sqrt(Vec a) { return {vsqrtq_f32(a.v)}; }
inline Vec round(Vec a) { return {vrndnq_f32(a.v)}; }  // half to even

// v * 2^n by adding n to the exponent: n integral, v and the result normal. NaN stays NaN where n is NaN.
inline Vec scale2(Vec v, Vec n) {
  const int32x4_t shift = vshlq_n_s32(vcvtq_s32_f32(n.v), 23);  // NaN converts to 0
  return {vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(v.v), shift))};
}

// The nearest integers of four vectors, half to even, which must be in [-128, 127].
inline void store_s8(const Vec (&x)[4], int8_t* p) {
  const auto pair = [](Vec a, Vec b) {
    return vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a.v)), vmovn_s32(vcvtnq_s32_f32(b.v)));
  };
  vst1q_s8(p, vcombine_s8(vmovn_s16(pair(x[0], x[1])), vmovn_s16(pair(x[2], x[3]))));
}

inline float reduce_add(Vec a) { return vaddvq_f32(a.v); }
inline float reduce_max(Vec a) { return vmaxvq_f32(a.v); }

}  // namespace
}  // namespace kdnative::cpu
