// Ceilings of Advanced SIMD with dot products: see ../roofline.h.
#include "../instruction_sets.h"
#include "burst.h"

namespace kdnative::cpu::neon {

// One sdot is 16 multiply-accumulates.
int64_t int8_burst(int64_t rounds) {
  return 16 * 2 * burst(rounds, [](int32x4_t sum, int8x16_t a, int8x16_t b) { return vdotq_s32(sum, a, b); });
}

uint64_t read_all(const uint8_t* p, size_t bytes) {
  uint8x16_t sum[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
  for (size_t i = 0; i < bytes; i += 512) {
#pragma GCC unroll 32
    for (size_t c = 0; c < 32; ++c) sum[c % 4] = veorq_u8(sum[c % 4], vld1q_u8(p + i + 16 * c));
  }
  const uint64x2_t all = vreinterpretq_u64_u8(veorq_u8(veorq_u8(sum[0], sum[1]), veorq_u8(sum[2], sum[3])));
  return vgetq_lane_u64(all, 0) ^ vgetq_lane_u64(all, 1);
}

}  // namespace kdnative::cpu::neon
