// What every part of the kernel harness uses: random numbers, failed checks, buffers with hard ends, half precision.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../../../csrc/cpu/kernels.h"

namespace harness {

using namespace kdnative::cpu;

using Tables = std::vector<const Kernels*>;

inline std::mt19937 rng(7);
inline int failures = 0;
inline bool stop_at_first = false;  // failed check

inline int64_t random_int(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }
inline float random_float(float scale) { return std::uniform_real_distribution<float>(-scale, scale)(rng); }
// A factor between 2^-5 and 2^5.
inline float random_factor() { return std::exp2(random_float(5.0f)); }
inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

inline void check(bool ok, const char* isa, const std::string& what) {
  if (ok) return;
  if (++failures <= 20) std::printf("FAIL %s: %s\n", isa, what.c_str());
  if (stop_at_first) std::exit(1);
}

// Exactly `count` elements, 64-byte aligned, so that a sanitizer sees any access past the end.
template <typename T>
struct Buffer {
  explicit Buffer(int64_t count)
      : size(count), p(static_cast<T*>(std::aligned_alloc(64, round_up(count * sizeof(T), 64)))) {
    std::memset(static_cast<void*>(p.get()), 0, count * sizeof(T));
  }
  struct Free {
    void operator()(T* q) const { std::free(q); }
  };
  int64_t size;
  std::unique_ptr<T[], Free> p;
  T& operator[](int64_t i) { return p[i]; }
  T* get() { return p.get(); }
};

inline float bf16_to_float(uint16_t h) {
  const uint32_t u = static_cast<uint32_t>(h) << 16;
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

inline uint16_t float_to_bf16(float x) {  // nearest even, finite values
  uint32_t u;
  std::memcpy(&u, &x, 4);
  const uint32_t low = u & 0xffff, high = u >> 16;
  return static_cast<uint16_t>(high + (low > 0x8000 || (low == 0x8000 && (high & 1))));
}

inline uint16_t float_to_f16(float x) {
  const _Float16 h = static_cast<_Float16>(x);
  uint16_t u;
  std::memcpy(&u, &h, 2);
  return u;
}

inline float f16_to_float(uint16_t u) {
  _Float16 h;
  std::memcpy(&h, &u, 2);
  return static_cast<float>(h);
}

// In double precision; NaN stays NaN.
inline double activation(Activation which, double x) {
  switch (which) {
    case Activation::relu:
      return x < 0 ? 0 : x;
    case Activation::gelu_erf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::tanh:
      return std::tanh(x);
    default:
      return x;
  }
}

}  // namespace harness
