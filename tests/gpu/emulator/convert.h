// From one type to another. Emulated half of csrc/cuda/gpu/convert.h.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace gpu {

inline uint32_t bits_of(float v) { return std::bit_cast<uint32_t>(v); }
inline float float_of_bits(uint32_t v) { return std::bit_cast<float>(v); }

namespace emulator {

template <typename Type>
struct Format;
template <>
struct Format<Half> {
  static constexpr int kMantissa = 10, kBias = 15;
};
template <>
struct Format<Bf16> {
  static constexpr int kMantissa = 7, kBias = 127;
};

// The nearest value of 16 bits, half to even.
template <typename Type>
Type round_to(double v) {
  constexpr int kMantissa = Format<Type>::kMantissa, kBias = Format<Type>::kBias;
  constexpr uint16_t kInfinity = (2 * kBias + 1) << kMantissa;
  if (std::isnan(v)) return {0x7fff};
  const uint16_t sign = std::signbit(v) ? 0x8000 : 0;
  const double size = std::fabs(v);
  if (size == 0) return {sign};
  // The unit in the last place of size, at least that of the smallest value; bits count units from there.
  const int exponent = std::max(std::isinf(size) ? 2 * kBias : std::ilogb(size), 1 - kBias);
  const double units = std::nearbyint(std::ldexp(size, kMantissa - exponent));
  const double bits = units + static_cast<double>((exponent + kBias - 1) << kMantissa);
  return {static_cast<uint16_t>(sign | (bits >= kInfinity ? kInfinity : static_cast<uint16_t>(bits)))};
}
// a + b with the last bit set when it isn't exact: rounding that to fewer bits is rounding a + b.
inline double add_to_odd(double a, double b) {
  const double sum = a + b;
  if (!std::isfinite(sum)) return sum;
  const double b_there = sum - a, error = (a - (sum - b_there)) + (b - b_there);
  if (error == 0 || std::bit_cast<uint64_t>(sum) & 1) return sum;
  return std::nextafter(sum, error > 0 ? INFINITY : -INFINITY);
}

}  // namespace emulator

inline Half to_half(float v) { return emulator::round_to<Half>(v); }
inline Bf16 to_bf16(float v) { return emulator::round_to<Bf16>(v); }
inline float to_float(Half v) {
  const int exponent = v.bits >> 10 & 31, mantissa = v.bits & 1023;
  float size;
  if (exponent == 31) {
    size = mantissa == 0 ? INFINITY : NAN;
  } else {
    size = exponent == 0
               ? std::ldexp(static_cast<float>(mantissa), -24)
               : float_of_bits(static_cast<uint32_t>(exponent + 112) << 23 | static_cast<uint32_t>(mantissa) << 13);
  }
  return v.bits & 0x8000 ? -size : size;
}
inline float to_float(Bf16 v) { return float_of_bits(static_cast<uint32_t>(v.bits) << 16); }
inline uint32_t to_half2(float low, float high) {
  return static_cast<uint32_t>(to_half(high).bits) << 16 | to_half(low).bits;
}
inline uint32_t to_bf16x2(float low, float high) {
  return static_cast<uint32_t>(to_bf16(high).bits) << 16 | to_bf16(low).bits;
}

inline float to_float(int32_t v) { return static_cast<float>(v); }
namespace emulator {
inline int32_t round_within(float v, double least, double most) {
  return std::isnan(v) ? 0 : static_cast<int32_t>(std::clamp(std::nearbyint(static_cast<double>(v)), least, most));
}
}  // namespace emulator
inline int32_t to_int(float v) { return emulator::round_within(v, INT32_MIN, INT32_MAX); }
inline uint32_t pack_int8(int32_t low, int32_t high, uint32_t rest) {
  const auto byte = [](int32_t v) { return static_cast<uint32_t>(static_cast<uint8_t>(std::clamp(v, -128, 127))); };
  return byte(low) | byte(high) << 8 | rest << 16;
}

}  // namespace gpu
