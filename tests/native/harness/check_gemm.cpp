// The GEMMs against plain loops over unpacked weights, and every table against the bits of the reference.
#include "checks.h"
#include "linear.h"

namespace harness {
namespace {

// What the contract says before bias: one rounding a line.
float expected_sum(Layer& w, Rows& a, int64_t r, int64_t c) {
  const PackedLinear& p = w.packed;
  const bool per_channel = p.bits == 8 || p.group_scale != nullptr;
  const int64_t columns = per_channel ? p.k : p.group;
  float sum = 0.0f;
  for (int64_t k = 0; k < p.k; k += columns) {
    int64_t dot = 0;
    for (int64_t i = k; i < k + columns; ++i) dot += int64_t{a.q[r * a.ld + i]} * w.weight[c * p.k + i];
    if (per_channel) {
      const float scale = a.scale[r] * w.scale[c];
      return static_cast<float>(dot) * scale;
    }
    sum = std::fma(static_cast<float>(dot), w.scale[k / columns * p.n_pad + c], sum);
  }
  return sum * a.scale[r];
}

struct Case {
  int64_t m, n, k;
  int bits, group;
  bool symmetric, bias, residual, extreme, two_levels;
  Activation act;
  DType out;
  std::string name() const {
    char text[200];
    std::snprintf(text, sizeof text,
                  "w%da8%s m=%ld n=%ld k=%ld group=%d symmetric=%d bias=%d residual=%d extreme=%d activation=%d out=%d",
                  bits, two_levels ? "-int" : "", static_cast<long>(m), static_cast<long>(n), static_cast<long>(k),
                  group, symmetric, bias, residual, extreme, static_cast<int>(act), static_cast<int>(out));
    return text;
  }
};

void check_gemm(const Tables& tables, const Case& c) {
  Layer w(c.n, c.k, c.bits, c.group, c.symmetric, c.bias, c.extreme, c.two_levels);
  Rows a(c.m, c.k, c.extreme);
  const int64_t ld = c.n + random_int(0, 5), size = c.out == DType::f32 ? 4 : 2, bytes = c.m * ld * size;
  const int64_t tiles = w.n_pad / 32;
  Buffer<float> residual(c.m * c.n);
  for (int64_t i = 0; i < residual.size; ++i) residual[i] = random_float(2.0f);
  const auto epilogue = [&](uint8_t* out) {
    return Epilogue{out, ld, c.out, c.act, c.residual ? residual.get() : nullptr, c.n};
  };
  Buffer<uint8_t> reference(bytes);
  std::memset(reference.get(), 0xcd, bytes);
  run_gemm(*reference_kernels(), w, a.view(), epilogue(reference.get()), {0, c.m, 0, tiles});
  for (int64_t r = 0; r < c.m; ++r) {
    for (int64_t j = 0; j < ld; ++j) {
      const uint8_t* at = reference.get() + (r * ld + j) * size;
      if (j >= c.n) {
        check(at[0] == 0xcd && at[1] == 0xcd, "reference", c.name() + ": wrote past the last column");
        continue;
      }
      float y = expected_sum(w, a, r, j);
      if (c.bias) y = y + w.bias[j];
      double wanted = activation(c.act, y);
      if (c.residual) wanted = static_cast<float>(wanted) + residual[r * c.n + j];
      uint16_t half;
      float got;
      std::memcpy(&half, at, 2);
      std::memcpy(&got, at, size == 4 ? 4 : 2);
      if (c.out != DType::f32) got = c.out == DType::bf16 ? bf16_to_float(half) : f16_to_float(half);
      if (c.act == Activation::none || c.act == Activation::relu) {
        const float y32 = static_cast<float>(wanted);
        const bool same = std::isnan(y32)        ? std::isnan(got)
                          : c.out == DType::f32  ? got == y32
                          : c.out == DType::bf16 ? half == float_to_bf16(y32)
                                                 : half == float_to_f16(y32);
        check(same, "reference", c.name() + ": not the expected bits");
      } else {
        const double unit = c.out == DType::f32 ? 1e-6 : c.out == DType::bf16 ? 1 / 256.0 : 1 / 2048.0;
        check(std::isnan(wanted) ? std::isnan(got) : std::fabs(got - wanted) <= unit * (1 + std::fabs(wanted)),
              "reference", c.name() + ": activation is off");
      }
    }
  }
  for (const Kernels* t : tables) {
    Buffer<uint8_t> out(bytes);
    std::memset(out.get(), 0xcd, bytes);
    run_gemm(*t, w, a.view(), epilogue(out.get()), {0, c.m, 0, tiles});
    check(std::memcmp(out.get(), reference.get(), bytes) == 0, t->isa, c.name());
    // Any split must give the same bits, and a part nothing but its own rows and columns.
    const int64_t row = random_int(0, c.m), tile = random_int(0, tiles);
    const int64_t rows[3] = {0, row, c.m}, columns[3] = {0, tile, tiles};
    for (int i = 0; i < 4; ++i) {
      const GemmRange part = {rows[i / 2], rows[i / 2 + 1], columns[i % 2], columns[i % 2 + 1]};
      std::memset(out.get(), 0xcd, bytes);
      run_gemm(*t, w, a.view(), epilogue(out.get()), part);
      bool same = true;
      for (int64_t r = 0; r < c.m; ++r) {
        const bool own_row = r >= part.m_begin && r < part.m_end;
        for (int64_t j = 0; j < ld * size; ++j) {
          const int64_t column = j / size;
          const bool own = own_row && column >= part.tile_begin * 32 && column < part.tile_end * 32;
          same = same && out[r * ld * size + j] == (own ? reference[r * ld * size + j] : 0xcd);
        }
      }
      check(same, t->isa, c.name() + " in four parts");
    }
  }
}

}  // namespace

void check_gemms(const Tables& tables) {
  const int64_t ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 50, 64, 129, 260};
  const int64_t ns[] = {1, 7, 15, 16, 17, 31, 32, 33, 47, 64, 100};
  const int64_t ks[] = {1, 3, 31, 63, 64, 65, 100, 130, 384, 1000, 1025, 2112};
  const auto pick = [](const auto& list) { return list[random_int(0, std::size(list) - 1)]; };
  for (int i = 0; i < 600; ++i) {
    Case c{};
    c.bits = i % 2 ? 8 : i % 3 ? 4 : 2;
    c.group = c.bits == 8 ? 0 : 32 << random_int(0, 2);
    c.m = i % 40 < 20 ? ms[i % 20] : pick(ms);
    c.n = pick(ns);
    c.k = c.bits == 8 ? pick(ks) : c.group * random_int(1, 1200 / c.group);
    c.two_levels = c.bits == 4 && random_int(0, 1);
    c.symmetric = !c.two_levels && random_int(0, 1);
    c.bias = random_int(0, 3) > 0;
    c.residual = random_int(0, 1);
    c.extreme = i % 5 == 0;
    c.act = static_cast<Activation>(random_int(0, 5));
    c.out = static_cast<DType>(random_int(0, 2));
    check_gemm(tables, c);
  }
  const Case empty = {0, 40, 70, 8, 0, true, true, false, false, false, Activation::none, DType::f32};
  check_gemm(tables, empty);
}

}  // namespace harness
