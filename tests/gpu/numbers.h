// Numbers of the types of tensors, made and read by the CPU's own conversions.
#pragma once

#include <cstring>
#include <type_traits>

#include "../../csrc/cpu/simd/vec_scalar.h"
#include "gpu.h"
#include "kinds.h"

namespace gpu::emulator {

template <typename T>
T number(float v) {
  T h;
  if constexpr (std::is_same_v<T, Half>) kdnative::cpu::Vec{v}.store_f16(&h.bits);
  if constexpr (std::is_same_v<T, Bf16>) kdnative::cpu::Vec{v}.store_bf16(&h.bits);
  if constexpr (std::is_same_v<T, float>) h = v;
  return h;
}
template <typename T>
constexpr DType type_of() {
  return std::is_same_v<T, float> ? DType::f32 : std::is_same_v<T, Half> ? DType::f16 : DType::bf16;
}
inline float plain(float v) { return v; }
inline float plain(Half v) { return kdnative::cpu::Vec::load_f16(&v.bits).v; }
inline float plain(Bf16 v) { return kdnative::cpu::Vec::load_bf16(&v.bits).v; }

// Equal bits, or NaN both.
inline bool same(float a, float b) { return (a != a && b != b) || std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace gpu::emulator
