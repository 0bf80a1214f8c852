// Arithmetic that C++ operators don't name, or that a compiler might fuse. Device half.
#pragma once

#include "gpu/values.h"

namespace gpu {

// mul.rn.f32: never fused with an addition, which plain * may be.
GPU_FN float mul_rn(float a, float b) {
  float r;
  asm("mul.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
// add.rn.f32
GPU_FN float add_rn(float a, float b) {
  float r;
  asm("add.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
// sub.rn.f32
GPU_FN float sub_rn(float a, float b) {
  float r;
  asm("sub.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
// div.rn.f32
GPU_FN float div_rn(float a, float b) {
  float r;
  asm("div.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
// fma.rn.f32
GPU_FN float fma_rn(float a, float b, float c) {
  float r;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(r) : "f"(a), "f"(b), "f"(c));
  return r;
}
// sqrt.rn.f32
GPU_FN float sqrt_rn(float a) {
  float r;
  asm("sqrt.rn.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}

// lop3.b32: bit by bit the function whose table is kTable: write it with 0xf0 for a, 0xcc for b and 0xaa for c.
template <int kTable>
GPU_FN uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(a), "r"(b), "r"(c), "n"(kTable));
  return r;
}
// prmt.b32: byte i of the result is byte (selector >> 4 i & 7) of the eight in a (0 ... 3) and b (4 ... 7); with bit 3
// of it, that byte's sign.
GPU_FN uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}

// add.rn.f16x2
GPU_FN uint32_t add_half2(uint32_t a, uint32_t b) {
  uint32_t r;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
// fma.rn.f16x2
GPU_FN uint32_t fma_half2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
// fma.rn.bf16x2: bf16 has no other pair instruction before sm_90; a + b is fma(a, 1, b), a * b is fma(a, b, -0).
GPU_FN uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}

}  // namespace gpu
