// Bytes, a register of unsigned codes: 16 of them; and Ints, four lanes of 32 bits. Include vec_neon.h first. The
// operations and the order of the four vectors of a register are those of bytes_avx512.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

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

struct Bytes {
  static constexpr int64_t width = 16;
  uint8x16_t v;

  static Bytes zero() { return {vdupq_n_u8(0)}; }
  static Bytes set1(int32_t x) { return {vdupq_n_u8(static_cast<uint8_t>(x))}; }
  static Bytes load(const void* p) { return {vld1q_u8(static_cast<const uint8_t*>(p))}; }
  static Bytes load(const uint8_t* p, int64_t n) {
    uint8_t all[width] = {};
    std::memcpy(all, p, static_cast<size_t>(n < width ? n : width));
    return load(all);
  }
  void store(uint8_t* p) const { vst1q_u8(p, v); }
  void store(uint8_t* p, int64_t n) const {
    if (n >= width) return store(p);
    uint8_t all[width];
    store(all);
    std::memcpy(p, all, static_cast<size_t>(n));
  }
};

inline Bytes min(Bytes a, Bytes b) { return {vminq_u8(a.v, b.v)}; }
inline Bytes max(Bytes a, Bytes b) { return {vmaxq_u8(a.v, b.v)}; }
inline Bytes operator^(Bytes a, Bytes b) { return {veorq_u8(a.v, b.v)}; }

inline Bytes zip_low(Bytes a, Bytes b) { return {vzip1q_u8(a.v, b.v)}; }
inline Bytes zip_high(Bytes a, Bytes b) { return {vzip2q_u8(a.v, b.v)}; }
inline uint16x8_t words(Bytes a) { return vreinterpretq_u16_u8(a.v); }
inline Bytes zip_pairs_low(Bytes a, Bytes b) { return {vreinterpretq_u8_u16(vzip1q_u16(words(a), words(b)))}; }
inline Bytes zip_pairs_high(Bytes a, Bytes b) { return {vreinterpretq_u8_u16(vzip2q_u16(words(a), words(b)))}; }

inline Bytes add_words(Bytes a, Bytes b) { return {vreinterpretq_u8_u16(vaddq_u16(words(a), words(b)))}; }
inline Ints pair_products(Bytes a, Bytes b) {
  const int16x8_t x = vreinterpretq_s16_u8(a.v), y = vreinterpretq_s16_u8(b.v);
  return {vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y))};
}

inline Ints bits(Bytes a) { return {vreinterpretq_s32_u8(a.v)}; }
inline Bytes bytes(Ints a) { return {vreinterpretq_u8_s32(a.v)}; }
inline Ints nearest(Vec v) { return {vcvtnq_s32_f32(v.v)}; }
inline Bytes narrow(const Ints (&q)[4]) {
  const auto pair = [](Ints a, Ints b) { return vcombine_s16(vqmovn_s32(a.v), vqmovn_s32(b.v)); };
  return {vcombine_u8(vqmovun_s16(pair(q[0], q[1])), vqmovun_s16(pair(q[2], q[3])))};
}

inline Vec load_fours(const float* p, int64_t) { return Vec::load(p); }

inline bool any(Mask m) { return vmaxvq_u32(m.m) != 0; }
inline Mask operator|(Mask a, Mask b) { return {vorrq_u32(a.m, b.m)}; }
inline Mask unordered(Vec a) { return {vmvnq_u32(vceqq_f32(a.v, a.v))}; }
inline Mask no_lanes() { return {vdupq_n_u32(0)}; }

}  // namespace
}  // namespace kdnative::cpu
