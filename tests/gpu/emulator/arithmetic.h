// Arithmetic, as the hardware rounds it. Emulated half of csrc/cuda/gpu/arithmetic.h. Built with -ffp-contract=off.
#pragma once

#include <cmath>

#include "convert.h"

namespace gpu {

inline float mul_rn(float a, float b) { return a * b; }
inline float add_rn(float a, float b) { return a + b; }
inline float sub_rn(float a, float b) { return a - b; }
inline float div_rn(float a, float b) { return a / b; }
inline float fma_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float sqrt_rn(float a) { return std::sqrt(a); }

template <int kTable>
uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r = 0;
  for (int i = 0; i < 8; ++i)
    if (kTable >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return r;
}
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t from = static_cast<uint64_t>(b) << 32 | a;
  uint32_t r = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> 4 * i & 15;
    const uint32_t byte = from >> 8 * (nibble & 7) & 255;
    r |= (nibble & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * i;
  }
  return r;
}

namespace emulator {
// a b + c of both halves of pairs, rounded once to 16 bits.
template <typename Type>
uint32_t fma_pair(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const auto part = [shift](uint32_t v) {
      return static_cast<double>(to_float(Type{static_cast<uint16_t>(v >> shift)}));
    };
    r |= static_cast<uint32_t>(round_to<Type>(add_to_odd(part(a) * part(b), part(c))).bits) << shift;
  }
  return r;
}
constexpr uint32_t kOnes = 0x3c003c00;  // a pair of fp16
}  // namespace emulator

inline uint32_t fma_half2(uint32_t a, uint32_t b, uint32_t c) { return emulator::fma_pair<Half>(a, b, c); }
inline uint32_t add_half2(uint32_t a, uint32_t b) { return emulator::fma_pair<Half>(a, emulator::kOnes, b); }
inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) { return emulator::fma_pair<Bf16>(a, b, c); }

}  // namespace gpu
