// From one type to another. Device half. A pair in 32 bits has the first in the low half.
#pragma once

#include "gpu/values.h"

namespace gpu {

// mov.b32
GPU_FN uint32_t bits_of(float v) {
  uint32_t r;
  asm("mov.b32 %0, %1;" : "=r"(r) : "f"(v));
  return r;
}
// mov.b32
GPU_FN float float_of_bits(uint32_t v) {
  float r;
  asm("mov.b32 %0, %1;" : "=f"(r) : "r"(v));
  return r;
}

// cvt.rn.f16.f32
GPU_FN Half to_half(float v) {
  Half r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
  return r;
}
// cvt.f32.f16
GPU_FN float to_float(Half v) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v.bits));
  return r;
}
// cvt.rn.bf16.f32
GPU_FN Bf16 to_bf16(float v) {
  Bf16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
  return r;
}
// mov.b32 {0, v}
GPU_FN float to_float(Bf16 v) {
  uint32_t r;
  asm("mov.b32 %0, {%1, %2};" : "=r"(r) : "h"(static_cast<uint16_t>(0)), "h"(v.bits));
  return float_of_bits(r);
}
// cvt.rn.f16x2.f32
GPU_FN uint32_t to_half2(float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// cvt.rn.bf16x2.f32
GPU_FN uint32_t to_bf16x2(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// cvt.rn.f32.s32
GPU_FN float to_float(int32_t v) {
  float r;
  asm("cvt.rn.f32.s32 %0, %1;" : "=f"(r) : "r"(v));
  return r;
}
// cvt.rni.s32.f32: nearest, half to even; too large becomes the largest, NaN 0.
GPU_FN int32_t to_int(float v) {
  int32_t r;
  asm("cvt.rni.s32.f32 %0, %1;" : "=r"(r) : "f"(v));
  return r;
}
// cvt.pack.sat.s8.s32.b32: low in byte 0 and high in byte 1, within -128 ... 127; the low half of rest in bytes 2
// and 3.
GPU_FN uint32_t pack_int8(int32_t low, int32_t high, uint32_t rest) {
  uint32_t r;
  asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(high), "r"(low), "r"(rest));
  return r;
}

}  // namespace gpu
