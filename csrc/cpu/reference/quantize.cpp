#include <cmath>
#include <cstring>

#include "../instruction_sets.h"
#include "../simd/vec_scalar.h"

namespace kdnative::cpu::reference {
namespace {

float load(const void* x, DType type, int64_t i) {
  if (type == DType::f32) return static_cast<const float*>(x)[i];
  const auto* half = static_cast<const uint16_t*>(x) + i;
  return type == DType::bf16 ? Vec::load_bf16(half).v : Vec::load_f16(half).v;
}

}  // namespace

void quantize_rows(const void* x, DType type, int64_t ld_x, const float* input_scale, int64_t rows, int64_t k,
                   int64_t k_pad, int8_t* q, int64_t ld_q, float* scale, int32_t* group_sum) {
  for (int64_t r = 0; r < rows; ++r, q += ld_q) {
    const auto value = [&](int64_t i) {
      const float v = load(x, type, r * ld_x + i);
      return input_scale == nullptr ? v : v * input_scale[i];
    };
    uint32_t top = 0;  // largest magnitude as bits: ordered like the values, with infinity and NaN on top
    for (int64_t i = 0; i < k; ++i) {
      const uint32_t bits = float_bits(value(i)) & 0x7fffffffu;
      top = bits > top ? bits : top;
    }
    const bool finite = top < 0x7f800000u;
    const float amax = bits_float(top);
    const float inverse = finite && amax >= 1e-30f ? 127.0f / amax : 0.0f;
    scale[r] = finite ? amax / 127.0f : NAN;
    if (k_pad > 0) std::memset(q, 0, static_cast<size_t>(k_pad));  // without columns there may be no memory either
    for (int64_t i = 0; finite && i < k; ++i) {
      q[i] = static_cast<int8_t>(std::nearbyint(value(i) * inverse));
    }
    for (int64_t g = 0; group_sum != nullptr && g < k_pad / 32; ++g) {
      int32_t sum = 0;
      for (int64_t i = 0; i < 32; ++i) sum += q[g * 32 + i];
      group_sum[r * (k_pad / 32) + g] = sum;
    }
  }
}

}  // namespace kdnative::cpu::reference
