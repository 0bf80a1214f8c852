// Numbers of fp32, fp16 and bf16 in global memory, four at a time.
#pragma once
#include "gpu.h"

namespace gpu {

GPU_FN float to_float(float v) { return v; }

// Two numbers in 32 bits, the first in the low half, rounded to the nearest, halves to even.
template <typename T>
GPU_FN uint32_t to_pair(float low, float high);
template <>
GPU_FN uint32_t to_pair<Half>(float low, float high) {
  return to_half2(low, high);
}
template <>
GPU_FN uint32_t to_pair<Bf16>(float low, float high) {
  return to_bf16x2(low, high);
}

// v as T holds it.
template <typename T>
GPU_FN float rounded(float v);
template <>
GPU_FN float rounded<float>(float v) {
  return v;
}
template <>
GPU_FN float rounded<Half>(float v) {
  return to_float(to_half(v));
}
template <>
GPU_FN float rounded<Bf16>(float v) {
  return to_float(to_bf16(v));
}

// v[i] = at[i] for i < count, 0 beyond. `aligned`: `at` lies on four elements, so that they may be read as one.
GPU_FN void load4(const float* at, int count, bool aligned, float (&v)[4]) {
  if (aligned && count == 4) {
    const U4 bits = load_global16(at);
    v[0] = float_of_bits(bits.x), v[1] = float_of_bits(bits.y);
    v[2] = float_of_bits(bits.z), v[3] = float_of_bits(bits.w);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = i < count ? load_global(at + i) : 0.0f;
}
template <typename T>
GPU_FN void load4(const T* at, int count, bool aligned, float (&v)[4]) {
  if (aligned && count == 4) {
    const U2 bits = load_global(static_cast<const U2*>(static_cast<const void*>(at)));
    v[0] = to_float(T{static_cast<uint16_t>(bits.x)}), v[1] = to_float(T{static_cast<uint16_t>(bits.x >> 16)});
    v[2] = to_float(T{static_cast<uint16_t>(bits.y)}), v[3] = to_float(T{static_cast<uint16_t>(bits.y >> 16)});
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = i < count ? to_float(load_global(at + i)) : 0.0f;
}

// at[i] = v[i] for i < count, as load4 reads them.
GPU_FN void store4(float* at, int count, bool aligned, const float (&v)[4]) {
  if (aligned && count == 4) {
    store_global16(at, U4{bits_of(v[0]), bits_of(v[1]), bits_of(v[2]), bits_of(v[3])});
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) store_global(at + i, v[i]);
}
template <typename T>
GPU_FN void store4(T* at, int count, bool aligned, const float (&v)[4]) {
  const U2 bits = {to_pair<T>(v[0], v[1]), to_pair<T>(v[2], v[3])};
  if (aligned && count == 4) {
    store_global(static_cast<U2*>(static_cast<void*>(at)), bits);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) store_global(at + i, T{static_cast<uint16_t>((i < 2 ? bits.x : bits.y) >> i % 2 * 16)});
}

}  // namespace gpu
