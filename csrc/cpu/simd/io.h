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

// Where the inputs of a product come from: rows of x, and with input scales the rows times these.
template <DType type, bool scaled>
struct Inputs {
  const void* x;
  const float* scale;  // [k]; not read unless scaled

  // Elements [c, c + Vec::width) of the row that begins at element `first` of x.
  Vec load(int64_t first, int64_t c) const {
    const Vec v = load_as<type>(x, first + c);
    if constexpr (scaled) return v * Vec::load(scale + c);
    return v;
  }
  // The first n of them, which may be none, and zeros.
  Vec load(int64_t first, int64_t c, int64_t n) const {
    const Vec v = load_as<type>(x, first + c, n);
    if constexpr (scaled) return v * Vec::load(scale + c, n);
    return v;
  }
};

// f(Inputs) of rows of some type, times input scales unless these are nullptr.
template <DType type, typename F>
inline void with_inputs(const void* x, const float* scale, const F& f) {
  if (scale == nullptr) {
    f(Inputs<type, false>{x, nullptr});
  } else {
    f(Inputs<type, true>{x, scale});
  }
}

template <typename F>
inline void with_inputs(const void* x, DType type, const float* scale, const F& f) {
  switch (type) {
    case DType::f32:
      return with_inputs<DType::f32>(x, scale, f);
    case DType::bf16:
      return with_inputs<DType::bf16>(x, scale, f);
    case DType::f16:
      return with_inputs<DType::f16>(x, scale, f);
  }
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
