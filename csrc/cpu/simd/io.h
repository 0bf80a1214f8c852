// Loads and stores of Vec by DType. Include it after one vec_*.h. `i` counts elements from `p`; the forms with n touch
// only the first n lanes (0 in the others when loading).
#pragma once

#include "../kernels.h"

namespace kdnative::cpu {
namespace {

template <DType type>
inline Vec load_as(const void* p, int64_t i) {
  if constexpr (type == DType::f32) return Vec::load(static_cast<const float*>(p) + i);
  if constexpr (type == DType::bf16) return Vec::load_bf16(static_cast<const uint16_t*>(p) + i);
  if constexpr (type == DType::f16) return Vec::load_f16(static_cast<const uint16_t*>(p) + i);
}

template <DType type>
inline Vec load_as(const void* p, int64_t i, int64_t n) {
  if constexpr (type == DType::f32) return Vec::load(static_cast<const float*>(p) + i, n);
  if constexpr (type == DType::bf16) return Vec::load_bf16(static_cast<const uint16_t*>(p) + i, n);
  if constexpr (type == DType::f16) return Vec::load_f16(static_cast<const uint16_t*>(p) + i, n);
}

inline void store_as(DType type, void* p, int64_t i, Vec v) {
  switch (type) {
    case DType::f32:
      return v.store(static_cast<float*>(p) + i);
    case DType::bf16:
      return v.store_bf16(static_cast<uint16_t*>(p) + i);
    case DType::f16:
      return v.store_f16(static_cast<uint16_t*>(p) + i);
  }
}

inline void store_as(DType type, void* p, int64_t i, Vec v, int64_t n) {
  switch (type) {
    case DType::f32:
      return v.store(static_cast<float*>(p) + i, n);
    case DType::bf16:
      return v.store_bf16(static_cast<uint16_t*>(p) + i, n);
    case DType::f16:
      return v.store_f16(static_cast<uint16_t*>(p) + i, n);
  }
}

}  // namespace
}  // namespace kdnative::cpu
