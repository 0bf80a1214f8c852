// The measuring loop of the rooflines of this architecture.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace kdnative::cpu::neon {
namespace {

// sum = step(sum, a, b) over and over; returns how often.
template <typename Step>
inline int64_t burst(int64_t rounds, const Step& step) {
  // Latency of 3 to 4 cycles on up to four ports. All loops over the sums are unrolled: they must stay in registers.
  constexpr int kChains = 24;
  int32x4_t sum[kChains];
  int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-5);
#pragma GCC unroll 24
  for (int c = 0; c < kChains; ++c) {
    sum[c] = vdupq_n_s32(0);
    __asm__ volatile("" : "+w"(sum[c]));  // the compiler must not see that all sums are the same
  }
  for (int64_t i = 0; i < rounds; ++i) {
    __asm__("" : "+w"(a), "+w"(b));  // the compiler must not know the operands
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) sum[c] = step(sum[c], a, b);
  }
#pragma GCC unroll 24
  for (int c = 0; c < kChains; ++c) __asm__ volatile("" : : "w"(sum[c]));
  return rounds * kChains;
}

}  // namespace
}  // namespace kdnative::cpu::neon
