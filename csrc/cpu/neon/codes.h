// Codes of grouped weights as signed bytes.
#pragma once

#include <arm_neon.h>

namespace kdnative::cpu {
namespace {

// The `bits` bits from `shift` on of every byte: u in [0, 2^bits).
template <int shift, int bits>
inline int8x16_t codes(uint8x16_t packed) {
  if constexpr (shift > 0) packed = vshrq_n_u8(packed, shift);
  if constexpr (shift + bits < 8) packed = vandq_u8(packed, vdupq_n_u8((1 << bits) - 1));
  return vreinterpretq_s8_u8(packed);
}

}  // namespace
}  // namespace kdnative::cpu
