// Codes of four lanes: 16 bytes (requantize.h). Include it after vec_neon.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace kdnative::cpu {
namespace {

struct Codes {
  static constexpr int64_t width = 16;
  uint8x16_t v;

  static Codes set1(int32_t x) { return {vdupq_n_u8(static_cast<uint8_t>(x))}; }
  static Codes load(const uint8_t* p) { return {vld1q_u8(p)}; }
  static Codes load(const uint8_t* p, int64_t n) {  // the first n; it may be beyond 0..16
    if (n >= width) return load(p);
    uint8_t bytes[width] = {};
    if (n > 0) std::memcpy(bytes, p, n);
    return load(bytes);
  }
  void store(uint8_t* p) const { vst1q_u8(p, v); }
  void store(uint8_t* p, int64_t n) const {
    if (n >= width) return store(p);
    uint8_t bytes[width];
    store(bytes);
    if (n > 0) std::memcpy(p, bytes, n);
  }
};

inline Codes min(Codes a, Codes b) { return {vminq_u8(a.v, b.v)}; }
inline Codes max(Codes a, Codes b) { return {vmaxq_u8(a.v, b.v)}; }

inline Codes pack(const Vec (&x)[4]) {
  const auto pair = [](Vec a, Vec b) {
    return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.v)), vqmovn_s32(vcvtnq_s32_f32(b.v)));
  };
  return {vcombine_u8(vqmovun_s16(pair(x[0], x[1])), vqmovun_s16(pair(x[2], x[3])))};
}

inline void unpack(Codes codes, Vec (&x)[4]) {
  const uint16x8_t low = vmovl_u8(vget_low_u8(codes.v)), high = vmovl_u8(vget_high_u8(codes.v));
  x[0].v = vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
  x[1].v = vcvtq_f32_u32(vmovl_u16(vget_high_u16(low)));
  x[2].v = vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
  x[3].v = vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)));
}

// Sixteen bytes are in both orders at once.
inline Codes in_order(Codes codes) { return codes; }
inline Codes out_of_order(Codes codes) { return codes; }

}  // namespace
}  // namespace kdnative::cpu
