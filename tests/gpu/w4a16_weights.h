// Random weights for tests of products with float activations, plain and packed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "w4a16.h"

namespace gpu {

struct Case {
  int m, n, k;
  int bits = 4, group = 32;
  bool zeros = false, bias = true, residual = false, input_scales = false;
  DType type = DType::f16;
  Activation activation = Activation::none;
  bool exact = false;  // numbers whose sums fp32 holds: the result is that of float64, rounded once
  bool extremes = false;
  int splits = 1;
};

// A plain weight.
struct Weight {
  std::vector<int> codes, zeros;  // [n, k], [n, groups]: as they are stored, without a sign
  std::vector<float> scale, bias, input_scale;
  int64_t groups, per_group;

  // (u - zero) of output o and input i.
  float step(int64_t o, int64_t i, int64_t k) const {
    const int64_t g = o * groups + i / per_group;
    return static_cast<float>(codes[o * k + i] - zeros[g]);
  }
};

inline Weight make_weight(const Case& c, std::mt19937& random) {
  Weight w;
  w.groups = c.group == 0 ? 1 : c.k / c.group;
  w.per_group = c.k / w.groups;
  const int middle = 1 << (c.bits - 1), codes = 1 << c.bits;
  const auto fraction = [&] { return static_cast<float>(random() % 20001) / 10000 - 1; };
  for (int64_t i = 0; i < int64_t{c.n} * c.k; ++i)
    w.codes.push_back(c.extremes ? (i % 3 ? codes - 1 : 0) : static_cast<int>(random() % codes));
  for (int64_t i = 0; i < c.n * w.groups; ++i) {
    w.zeros.push_back(c.zeros ? static_cast<int>(random() % codes) : middle);
    w.scale.push_back(c.exact ? std::ldexp(1.0f, -static_cast<int>(random() % 3))
                              : 0.001f + 0.01f * std::fabs(fraction()));
  }
  for (int i = 0; i < c.n; ++i)
    w.bias.push_back(c.exact ? static_cast<float>(static_cast<int>(random() % 9) - 4) : fraction());
  for (int i = 0; i < c.k; ++i)
    w.input_scale.push_back(c.exact ? std::ldexp(1.0f, static_cast<int>(random() % 3) - 1)
                                    : 0.5f + std::fabs(fraction()));
  return w;
}

// What kdnative/formats/gpu/w4a16.py makes of it, by the words of w4a16_layout.h.
inline std::vector<uint8_t> pack(const Weight& w, const Case& c, const W4A16Form& form) {
  const W4A16Layout l = w4a16_layout(c.n, c.k, form);
  std::vector<uint8_t> packed(l.bytes, 0);
  const int64_t strips = ceil_div(c.n, 32), units = ceil_div(c.k, 32);
  const int middle = 1 << (c.bits - 1), bytes = unit_bytes(c.bits);
  for (int64_t strip = 0; strip < strips; ++strip)
    for (int j = 0; j < 4; ++j)
      for (int g = 0; g < 8; ++g) {
        const int64_t o = strip * 32 + output_of(j, g);
        for (int64_t i = 0; i < units * 32; ++i) {
          const int u = o < c.n && i < c.k ? w.codes[o * c.k + i] : middle;
          const int s = i % 32 / 8, t = i % 8 / 2, e = i % 2;
          uint8_t* unit = packed.data() + l.codes + (strip * units + i / 32) * bytes + (g * 4 + t) * 16 + j * 4;
          if (c.bits == 4)
            unit[(s + 4 * e) / 2] |= u << (s + 4 * e) % 2 * 4;
          else
            unit[s / 2 * 512 + s % 2 + 2 * e] = static_cast<uint8_t>(u);
        }
        for (int64_t group = 0; group < w.groups && form.zeros; ++group)
          packed[l.zero + (group * strips + strip) * 32 + g * 4 + j] =
              static_cast<uint8_t>(o < c.n ? w.zeros[o * w.groups + group] : middle);
      }
  const auto floats = [&](int64_t at) { return reinterpret_cast<float*>(packed.data() + at); };
  for (int64_t o = 0; o < c.n; ++o)
    for (int64_t g = 0; g < w.groups; ++g) floats(l.scale)[g * strips * 32 + o] = w.scale[o * w.groups + g];
  if (form.bias) std::memcpy(floats(l.bias), w.bias.data(), c.n * 4);
  if (form.input_scales) std::memcpy(floats(l.input_scale), w.input_scale.data(), c.k * 4);
  return packed;
}

}  // namespace gpu
