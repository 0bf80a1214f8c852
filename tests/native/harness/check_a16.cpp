// Packed weights x float activations: the reference against plain loops, bit for bit and in double precision, every
// table against the bits of the reference.
#include "checks.h"
#include "linear.h"

namespace harness {
namespace {

struct Case {
  int64_t m, n, k;
  int bits, group;
  bool symmetric, bias, residual, extreme;
  DType out;
  std::string name() const {
    char text[160];
    std::snprintf(text, sizeof text, "w%da16 m=%ld n=%ld k=%ld group=%d symmetric=%d bias=%d residual=%d out=%d", bits,
                  static_cast<long>(m), static_cast<long>(n), static_cast<long>(k), group, symmetric, bias, residual,
                  static_cast<int>(out));
    return text;
  }
};

struct Sums {
  float rounded;        // as the contract says, one rounding a line
  double exact, bound;  // and what fp32 rounding may change at most
};

Sums expected(const Layer& w, const float* x, int64_t c) {
  const PackedLinear& p = w.packed;
  const int64_t columns = p.bits == 8 ? p.k : p.group;
  Sums s{0.0f, 0.0, 0.0};
  double magnitude = 0.0;
  for (int64_t g = 0; g * columns < p.k; ++g) {
    const float scale = p.scale[g * p.n_pad + c];
    float acc = 0.0f;
    for (int64_t i = g * columns; i < (g + 1) * columns; ++i) {
      const int weight = w.weight[static_cast<size_t>(c * p.k + i)];
      acc = std::fma(x[i], static_cast<float>(weight), acc);
      s.exact += static_cast<double>(x[i]) * weight * scale;
      magnitude += std::fabs(static_cast<double>(x[i]) * weight * scale);
    }
    s.rounded = p.bits == 8 ? acc * scale : std::fma(acc, scale, s.rounded);
  }
  const double groups = static_cast<double>(p.k) / static_cast<double>(columns);
  s.bound = (static_cast<double>(columns) + groups + 2) * 0x1p-24 * magnitude;  // Higham 2002, section 3.1
  return s;
}

void check_layer(const Tables& tables, const Case& c) {
  Layer w(c.n, c.k, c.bits, c.group, c.symmetric, c.bias, c.extreme);
  const int64_t ld_x = c.k + random_int(0, 9), ld = c.n + random_int(0, 5), size = c.out == DType::f32 ? 4 : 2;
  Buffer<float> x(c.m * ld_x), residual(c.m * c.n);
  for (int64_t i = 0; i < x.size; ++i) x[i] = c.extreme ? random_float(1e6f) : random_float(2.0f);
  for (int64_t i = 0; i < residual.size; ++i) residual[i] = random_float(2.0f);
  const FloatRows rows = {x.get(), DType::f32, ld_x};
  const int64_t tiles = w.n_pad / 32, bytes = c.m * ld * size;
  const auto epilogue = [&](uint8_t* out) {
    return Epilogue{out, ld, c.out, Activation::none, c.residual ? residual.get() : nullptr, c.n};
  };
  Buffer<uint8_t> reference(bytes);
  std::memset(reference.get(), 0xcd, bytes);
  reference_kernels()->gemm_a16(w.packed, rows, epilogue(reference.get()), {0, c.m, 0, tiles});
  for (int64_t r = 0; r < c.m; ++r) {
    for (int64_t j = 0; j < ld; ++j) {
      const uint8_t* at = reference.get() + (r * ld + j) * size;
      if (j >= c.n) {
        check(at[0] == 0xcd && at[1] == 0xcd, "reference", c.name() + ": wrote past the last column");
        continue;
      }
      const Sums s = expected(w, x.get() + r * ld_x, j);
      float y = s.rounded;
      check(std::fabs(y - s.exact) <= s.bound, "reference", c.name() + ": beyond the bound of fp32 sums");
      if (c.bias) y = y + w.bias[j];
      if (c.residual) y = y + residual[r * c.n + j];
      uint16_t half;
      float got;
      std::memcpy(&half, at, 2);
      std::memcpy(&got, at, size == 4 ? 4 : 2);
      const bool same = c.out == DType::f32    ? got == y
                        : c.out == DType::bf16 ? half == float_to_bf16(y)
                                               : half == float_to_f16(y);
      check(same, "reference", c.name() + ": not the expected bits");
    }
  }
  for (const Kernels* t : tables) {
    Buffer<uint8_t> out(bytes);
    std::memset(out.get(), 0xcd, bytes);
    t->gemm_a16(w.packed, rows, epilogue(out.get()), {0, c.m, 0, tiles});
    check(std::memcmp(out.get(), reference.get(), bytes) == 0, t->isa, c.name());
    std::memset(out.get(), 0xcd, bytes);  // any split must give the same bits
    const int64_t row = random_int(0, c.m), tile = random_int(0, tiles);
    const int64_t row_ends[3] = {0, row, c.m}, column_ends[3] = {0, tile, tiles};
    for (int i = 0; i < 4; ++i) {
      const GemmRange part = {row_ends[i / 2], row_ends[i / 2 + 1], column_ends[i % 2], column_ends[i % 2 + 1]};
      t->gemm_a16(w.packed, rows, epilogue(out.get()), part);
    }
    check(std::memcmp(out.get(), reference.get(), bytes) == 0, t->isa, c.name() + " in four parts");
  }
}

void check_convert(const Kernels& t) {
  for (int i = 0; i < 120; ++i) {
    const auto type = static_cast<DType>(i % 3), out_type = i % 2 ? DType::bf16 : DType::f32;
    const int64_t rows = random_int(0, 5), k = random_int(1, 70), ld_x = k + random_int(0, 3);
    const int64_t ld = k + random_int(0, 40), size = type == DType::f32 ? 4 : 2;
    const int64_t out_size = out_type == DType::f32 ? 4 : 2;
    Buffer<uint8_t> x(rows * ld_x * size), out(rows * ld * out_size);
    for (int64_t j = 0; j < rows * ld_x; ++j) {
      const float value = random_float(100.0f);
      const uint16_t half = type == DType::bf16 ? float_to_bf16(value) : float_to_f16(value);
      std::memcpy(x.get() + j * size, size == 4 ? static_cast<const void*>(&value) : &half, size);
    }
    std::memset(out.get(), 0xcd, out.size);
    const bool scaled = random_int(0, 1) > 0;
    Buffer<float> factors(k);
    for (int64_t j = 0; j < k; ++j) factors[j] = random_factor();
    t.convert_rows(x.get(), type, ld_x, scaled ? factors.get() : nullptr, rows, k, out.get(), out_type, ld);
    for (int64_t j = 0; j < rows * ld; ++j) {
      float wanted = 0.0f;
      if (j % ld < k) {
        const uint8_t* at = x.get() + (j / ld * ld_x + j % ld) * size;
        uint16_t half;
        std::memcpy(&half, at, 2);
        std::memcpy(&wanted, at, size == 4 ? 4 : 2);
        if (type != DType::f32) wanted = type == DType::bf16 ? bf16_to_float(half) : f16_to_float(half);
        if (scaled) wanted *= factors[j % ld];
      }
      uint16_t got_half;
      float got;
      std::memcpy(&got_half, out.get() + j * out_size, 2);
      std::memcpy(&got, out.get() + j * out_size, out_size);
      check(out_type == DType::f32 ? got == wanted : got_half == float_to_bf16(wanted), t.isa, "convert_rows");
    }
  }
}

// bf16 rows: the products are exact, so fp32 sums in any order stay within the same bound. Only AMX and AVX512_BF16
// have them.
void check_bf16(const Tables& tables, const Case& c) {
  Layer w(c.n, c.k, c.bits, c.group, c.symmetric, false, c.extreme);
  const int64_t ld_x = w.k_pad + 32 * random_int(0, 2);
  Buffer<uint16_t> x(c.m * ld_x);
  Buffer<float> wide(c.m * ld_x), out(c.m * c.n), parts(c.m * c.n);
  std::vector<Sums> wanted;
  for (int64_t r = 0; r < c.m; ++r) {
    for (int64_t i = 0; i < c.k; ++i) {
      x[r * ld_x + i] = float_to_bf16(random_float(2.0f));
      wide[r * ld_x + i] = bf16_to_float(x[r * ld_x + i]);
    }
  }
  const FloatRows rows = {x.get(), DType::bf16, ld_x};
  const int64_t tiles = w.n_pad / 32;
  const auto epilogue = [&](float* to) { return Epilogue{to, c.n, DType::f32, Activation::none, nullptr, 0}; };
  for (const Kernels* t : tables) {
    if (t->bf16_rows == 0) continue;
    for (auto i = static_cast<int64_t>(wanted.size()); i < c.m * c.n; ++i)  // for the first table
      wanted.push_back(expected(w, wide.get() + i / c.n * ld_x, i % c.n));
    t->gemm_a16_bf16(w.packed, rows, epilogue(out.get()), {0, c.m, 0, tiles});
    for (int64_t i = 0; i < c.m * c.n; ++i) {
      const Sums& s = wanted[static_cast<size_t>(i)];
      check(std::fabs(out[i] - s.exact) <= s.bound + 1e-30, t->isa, c.name() + " bf16: beyond the bound");
    }
    const int64_t row = random_int(0, c.m), tile = random_int(0, tiles);
    const int64_t row_ends[3] = {0, row, c.m}, column_ends[3] = {0, tile, tiles};
    for (int i = 0; i < 4; ++i) {
      const GemmRange part = {row_ends[i / 2], row_ends[i / 2 + 1], column_ends[i % 2], column_ends[i % 2 + 1]};
      t->gemm_a16_bf16(w.packed, rows, epilogue(parts.get()), part);
    }
    check(std::memcmp(out.get(), parts.get(), c.m * c.n * 4) == 0, t->isa, c.name() + " bf16 in four parts");
  }
}

}  // namespace

void check_a16(const Tables& tables) {
  check_convert(*reference_kernels());
  for (const Kernels* t : tables) check_convert(*t);
  const int64_t ms[] = {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 16, 25, 33, 128, 130, 133};
  const int64_t ns[] = {1, 7, 16, 17, 32, 33, 64, 100, 160};
  const int64_t ks[] = {1, 2, 3, 5, 31, 63, 65, 127, 128, 129, 130, 255, 384, 1000};
  const auto pick = [](const auto& list) { return list[random_int(0, std::size(list) - 1)]; };
  for (int i = 0; i < 240; ++i) {
    Case c{};
    c.bits = i % 3 == 0 ? 8 : i % 3 == 1 ? 4 : 2;
    c.group = c.bits == 8 ? 0 : 32 << random_int(0, 2);
    c.m = i % 32 < 16 ? ms[i % 16] : pick(ms);
    c.n = pick(ns);
    c.k = c.bits == 8 ? pick(ks) : c.group * random_int(1, 600 / c.group);
    c.symmetric = random_int(0, 1);
    c.bias = random_int(0, 3) > 0;
    c.residual = random_int(0, 1);
    c.extreme = i % 5 == 0;
    c.out = static_cast<DType>(random_int(0, 2));
    check_layer(tables, c);
    check_bf16(tables, c);
  }
  check_layer(tables, {0, 40, 70, 8, 0, true, true, false, false, DType::f32});
}

}  // namespace harness
