// What tests of int8 products with left-out zeros share: random problems, what must come out, and a launch of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "emulator/emulated_launcher.h"
#include "emulator/testing.h"
#include "gpu.h"
#include "int8_product.h"
#include "numbers.h"
#include "refusals.h"

namespace gpu::emulator {

struct Shape {
  int m, n, k;
  std::string text() const { return std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k); }
};

struct Problem {
  Shape shape;
  int k_pad;
  std::vector<int8_t> x, w;  // [m, k_pad] and [n, k]
  std::vector<float> scale_x, scale_w, bias, residual;

  explicit Problem(const Shape& s) : shape(s), k_pad((s.k + 127) / 128 * 128) {
    std::minstd_rand random(s.m * 131 + s.n * 17 + s.k);
    std::uniform_int_distribution<int> code(-127, 127);
    std::uniform_real_distribution<float> scale(0.001f, 0.02f), any(-3, 3);
    x.assign(int64_t{s.m} * k_pad, 0);
    for (int r = 0; r < s.m; ++r)
      for (int c = 0; c < s.k; ++c) x[int64_t{r} * k_pad + c] = static_cast<int8_t>(code(random));
    w.resize(int64_t{s.n} * s.k);
    for (int8_t& v : w) v = static_cast<int8_t>(code(random));
    const auto floats = [&](int64_t count, auto& from) {
      std::vector<float> v(count);
      for (float& f : v) f = from(random);
      return v;
    };
    scale_x = floats(s.m, scale), scale_w = floats(s.n, scale), bias = floats(s.n, any);
    residual = floats(int64_t{s.m} * s.n, any);
    scale_x[s.m / 2] = std::nanf("");  // of a row that had a NaN, whose codes are 0
    for (int c = 0; c < s.k; ++c) x[int64_t{s.m / 2} * k_pad + c] = 0;
  }

  // Codes as large as there are, so that sums are.
  void make_extreme() {
    for (int r = 0; r < shape.m; ++r)
      for (int c = 0; c < shape.k; ++c) x[int64_t{r} * k_pad + c] = r % 3 == 2 ? 127 : -127;
    for (int8_t& v : w) v = v == 0 ? 0 : -127;
  }

  int32_t sum(int row, int column) const {
    int32_t total = 0;
    for (int c = 0; c < shape.k; ++c) total += x[int64_t{row} * k_pad + c] * w[int64_t{column} * shape.k + c];
    return total;
  }
};

enum class With { nothing, everything };  // or bias, relu and a residual

// Launches by start(memory, product), and says where the result is wrong, or nothing.
template <typename T, typename Start>
std::string difference(const std::string& name, const Problem& p, With with, EmulatedLauncher& launcher, Start start) {
  const auto [m, n, k] = p.shape;
  DeviceMemory memory;
  launcher.machine.memory = &memory;
  std::vector<T> residual;
  for (float v : p.residual) residual.push_back(number<T>(v));
  const bool all = with == With::everything;
  T* out = memory.output<T>("out", int64_t{m} * n);
  start(memory,
        Int8Product{memory.input("x", p.x), memory.input("scale_x", p.scale_x), memory.input("scale_w", p.scale_w),
                    all ? memory.input("bias", p.bias) : nullptr, all ? memory.input("residual", residual) : nullptr,
                    out, type_of<T>(), all ? Activation::relu : Activation::none, m, n, p.k_pad});
  launcher.machine.memory = nullptr;
  for (int r = 0; r < m; ++r)
    for (int c = 0; c < n; ++c) {
      const int64_t at = int64_t{r} * n + c;
      float y = static_cast<float>(p.sum(r, c)) * (p.scale_x[r] * p.scale_w[c]);
      if (all) {
        y += p.bias[c];
        y = 0.0f > y ? 0.0f : y;
        y += plain(residual[at]);
      }
      const float got = plain(out[at]), wanted = plain(number<T>(y));
      if (!same(got, wanted))
        return name + " " + p.shape.text() + " at " + std::to_string(r) + ", " + std::to_string(c) + ": " +
               std::to_string(got) + ", not " + std::to_string(wanted);
    }
  return "";
}

}  // namespace gpu::emulator
