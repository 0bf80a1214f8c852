// What the kernels of codes need beside codes_neon.h: the operations of zips_avx512.h, and Ints, four lanes of 32 bits.
// Include it after that one.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace kdnative::cpu {
namespace {

struct Ints {
  static constexpr int64_t width = 4;
  int32x4_t v;

  static Ints zero() { return {vdupq_n_s32(0)}; }
  static Ints set1(int32_t x) { return {vdupq_n_s32(x)}; }
  static Ints load(const int32_t* p) { return {vld1q_s32(p)}; }
  Vec to_float() const { return {vcvtq_f32_s32(v)}; }
};

inline Ints operator+(Ints a, Ints b) { return {vaddq_s32(a.v, b.v)}; }
inline Ints operator&(Ints a, Ints b) { return {vandq_s32(a.v, b.v)}; }
inline Ints operator-(Ints a, Ints b) { return {vsubq_s32(a.v, b.v)}; }
inline Ints operator|(Ints a, Ints b) { return {vorrq_s32(a.v, b.v)}; }
template <int count>
inline Ints shift_left(Ints a) {
  return {vshlq_n_s32(a.v, count)};
}

inline Codes operator^(Codes a, Codes b) { return {veorq_u8(a.v, b.v)}; }

inline Codes zip_low(Codes a, Codes b) { return {vzip1q_u8(a.v, b.v)}; }
inline Codes zip_high(Codes a, Codes b) { return {vzip2q_u8(a.v, b.v)}; }
inline uint16x8_t words(Codes a) { return vreinterpretq_u16_u8(a.v); }
inline Codes zip_pairs_low(Codes a, Codes b) { return {vreinterpretq_u8_u16(vzip1q_u16(words(a), words(b)))}; }
inline Codes zip_pairs_high(Codes a, Codes b) { return {vreinterpretq_u8_u16(vzip2q_u16(words(a), words(b)))}; }

inline Codes add_words(Codes a, Codes b) { return {vreinterpretq_u8_u16(vaddq_u16(words(a), words(b)))}; }
inline Ints pair_products(Codes a, Codes b) {
  const int16x8_t x = vreinterpretq_s16_u8(a.v), y = vreinterpretq_s16_u8(b.v);
  return {vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y))};
}

inline Ints bits(Codes a) { return {vreinterpretq_s32_u8(a.v)}; }
inline Codes bytes(Ints a) { return {vreinterpretq_u8_s32(a.v)}; }
inline Ints nearest(Vec v) { return {vcvtnq_s32_f32(v.v)}; }

inline Vec load_fours(const float* p, int64_t) { return Vec::load(p); }

inline bool any(Mask m) { return vmaxvq_u32(m.m) != 0; }
inline Mask operator|(Mask a, Mask b) { return {vorrq_u32(a.m, b.m)}; }
inline Mask unordered(Vec a) { return {vmvnq_u32(vceqq_f32(a.v, a.v))}; }
inline Mask no_lanes() { return {vdupq_n_u32(0)}; }

}  // namespace
}  // namespace kdnative::cpu
