// From fp32 to codes, as convolution.h says: what the reference kernels of networks of convolutions share.
#pragma once

#include <cmath>

#include "../convolution.h"

namespace kdnative::cpu::reference {
namespace {

inline int32_t clamp_code(float v, int32_t low, int32_t high) {
  const float rounded = std::nearbyint(v);  // half to even
  if (!(rounded > static_cast<float>(low))) return low;
  return rounded < static_cast<float>(high) ? static_cast<int32_t>(rounded) : high;
}

inline uint8_t saturate(float v) { return static_cast<uint8_t>(clamp_code(v, 0, 255)); }

// Not for Finish::real.
inline uint8_t finish_code(const Epilogue8& e, float v) {
  if (e.finish == Finish::hard_swish) {
    const float sixth = v * (1.0f / 6.0f) + 0.5f, above = sixth > 0.0f ? sixth : 0.0f, t = above < 1.0f ? above : 1.0f;
    v = (v * t) * e.out_scale + e.out_zero;
  }
  const int32_t q = clamp_code(v, e.low, e.high);
  return e.finish == Finish::table ? e.table[q] : static_cast<uint8_t>(q);
}

inline uint8_t* pixel_at(const Map& map, int64_t image, int64_t y, int64_t x) {
  return map.data + image * map.image + y * map.row + x * map.pixel;
}

}  // namespace
}  // namespace kdnative::cpu::reference
