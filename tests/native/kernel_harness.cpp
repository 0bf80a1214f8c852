// Checks every kernel table this machine can run against plain loops, and times the GEMMs.
//
//   kernel_harness [--time] [--isa NAME]      exit status 1 when a check fails
//
// Compiled by hand from the root of the repository (see tests/native/build_harness.sh); it needs no torch and no
// Python. The expected values come from unpacked weights and the rules in csrc/cpu/kernels.h, not from another kernel;
// only activations are compared with the reference table, and that table with double precision.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/cpu/features.h"
#include "../../csrc/cpu/kernels.h"

using namespace kdnative::cpu;

namespace {

std::mt19937 rng(7);
int failures = 0;

int64_t random_int(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }
float random_float(float scale) { return std::uniform_real_distribution<float>(-scale, scale)(rng); }
int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

void check(bool ok, const char* isa, const std::string& what) {
  if (ok) return;
  if (++failures <= 20) std::printf("FAIL %s: %s\n", isa, what.c_str());
}

// Exactly `count` elements, 64-byte aligned, so that a sanitizer sees any access past the end.
template <typename T>
struct Buffer {
  explicit Buffer(int64_t count)
      : size(count), p(static_cast<T*>(std::aligned_alloc(64, round_up(count * sizeof(T), 64)))) {
    std::memset(static_cast<void*>(p.get()), 0, count * sizeof(T));
  }
  struct Free {
    void operator()(T* q) const { std::free(q); }
  };
  int64_t size;
  std::unique_ptr<T[], Free> p;
  T& operator[](int64_t i) { return p[i]; }
  T* get() { return p.get(); }
};

float bf16_to_float(uint16_t h) {
  const uint32_t u = static_cast<uint32_t>(h) << 16;
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

uint16_t float_to_bf16(float x) {  // nearest even, finite values
  uint32_t u;
  std::memcpy(&u, &x, 4);
  const uint32_t low = u & 0xffff, high = u >> 16;
  return static_cast<uint16_t>(high + (low > 0x8000 || (low == 0x8000 && (high & 1))));
}

uint16_t float_to_f16(float x) {
  const _Float16 h = static_cast<_Float16>(x);
  uint16_t u;
  std::memcpy(&u, &h, 2);
  return u;
}

float f16_to_float(uint16_t u) {
  _Float16 h;
  std::memcpy(&h, &u, 2);
  return static_cast<float>(h);
}

// A linear layer: plain weights and their packed form, by the layout in csrc/cpu/packed.h.
struct Layer {
  Layer(int64_t n, int64_t k, int bits, int group, bool symmetric, bool with_bias, bool extreme)
      : n_pad(round_up(n, 32)),
        k_pad(round_up(k, 64)),
        groups(bits != 8 ? (k_pad + group - 1) / group : 1),
        weight(n * k, 0),
        data(n_pad * k_pad * bits / 8),
        scale(groups * n_pad),
        sums(n_pad),
        zero(groups * n_pad),
        bias(n_pad) {
    const int64_t most = (1 << bits) - 1, quads = bits == 8 ? 1 : 4 / bits;  // largest code; quads of k in 64 bytes
    for (int64_t i = 0; i < scale.size; ++i) scale[i] = 0.001f + std::fabs(random_float(0.01f));
    for (int64_t i = 0; i < zero.size; ++i)
      zero[i] = static_cast<uint8_t>(symmetric ? 1 << (bits - 1) : random_int(0, most));
    for (int64_t i = 0; i < n_pad; ++i) bias[i] = random_float(1.0f);
    for (int64_t c = 0; c < n; ++c) {
      for (int64_t i = 0; i < k; ++i) {
        if (bits == 8) {
          const int64_t v = extreme ? (random_int(0, 1) ? -128 : 127) : random_int(-127, 127);
          weight[c * k + i] = static_cast<int>(v);
          data[((c / 16 * (k_pad / 4) + i / 4) * 16 + c % 16) * 4 + i % 4] = static_cast<uint8_t>(v);
          sums[c] += static_cast<int32_t>(v);
        } else {
          const int64_t u = extreme ? random_int(0, 1) * most : random_int(0, most);
          weight[c * k + i] = static_cast<int>(u - zero[i / group * n_pad + c]);
          const int64_t columns = 4 * quads, place = i / 4 % quads * 2 + c % 32 / 16;
          uint8_t& byte = data[((c / 32 * (k_pad / columns) + i / columns) * 16 + c % 16) * 4 + i % 4];
          byte = static_cast<uint8_t>(byte | u << (bits * place));
        }
      }
    }
    packed = {bits,     group,      n,           k,          n_pad,      k_pad,
              groups,   data.get(), scale.get(), sums.get(), zero.get(), with_bias ? bias.get() : nullptr,
              symmetric};
  }
  int64_t n_pad, k_pad, groups;
  std::vector<int> weight;
  Buffer<uint8_t> data;
  Buffer<float> scale;
  Buffer<int32_t> sums;
  Buffer<uint8_t> zero;
  Buffer<float> bias;
  PackedLinear packed;
};

struct Rows {
  Rows(int64_t m, int64_t k, bool extreme) : k_pad(round_up(k, 64)), q(m * k_pad), scale(m), sums(m * k_pad / 32) {
    for (int64_t r = 0; r < m; ++r) {
      scale[r] = 0.001f + std::fabs(random_float(0.05f));
      for (int64_t i = 0; i < k; ++i) {
        const int64_t v = extreme ? (random_int(0, 1) ? -127 : 127) : random_int(-127, 127);
        q[r * k_pad + i] = static_cast<int8_t>(v);
        sums[r * (k_pad / 32) + i / 32] += static_cast<int32_t>(v);
      }
    }
  }
  QuantizedRows view() { return {q.get(), scale.get(), sums.get(), k_pad}; }
  int64_t k_pad;
  Buffer<int8_t> q;
  Buffer<float> scale;
  Buffer<int32_t> sums;
};

// What the contract says before bias: one rounding a line.
float expected_sum(Layer& w, Rows& a, int64_t r, int64_t c) {
  const PackedLinear& p = w.packed;
  const int64_t columns = p.bits == 8 ? p.k : p.group;
  float sum = 0.0f;
  for (int64_t k = 0; k < p.k; k += columns) {
    int64_t dot = 0;
    for (int64_t i = k; i < k + columns; ++i) dot += int64_t{a.q[r * a.k_pad + i]} * w.weight[c * p.k + i];
    if (p.bits == 8) {
      const float scale = a.scale[r] * w.scale[c];
      return static_cast<float>(dot) * scale;
    }
    sum = std::fma(static_cast<float>(dot), w.scale[k / columns * p.n_pad + c], sum);
  }
  return sum * a.scale[r];
}

double activation(Activation which, double x) {
  switch (which) {
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::gelu_erf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::tanh:
      return std::tanh(x);
    default:
      return x;
  }
}

void run_gemm(const Kernels& t, const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r) {
  gemm_of(t, w)(w, a, e, r);
}

struct Case {
  int64_t m, n, k;
  int bits, group;
  bool symmetric, bias, residual, extreme;
  Activation act;
  DType out;
  std::string name() const {
    char text[200];
    std::snprintf(text, sizeof text,
                  "w%da8 m=%ld n=%ld k=%ld group=%d symmetric=%d bias=%d residual=%d extreme=%d activation=%d out=%d",
                  bits, static_cast<long>(m), static_cast<long>(n), static_cast<long>(k), group, symmetric, bias,
                  residual, extreme, static_cast<int>(act), static_cast<int>(out));
    return text;
  }
};

void check_gemm(const std::vector<const Kernels*>& tables, const Case& c) {
  Layer w(c.n, c.k, c.bits, c.group, c.symmetric, c.bias, c.extreme);
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
  run_gemm(*reference_kernels(), w.packed, a.view(), epilogue(reference.get()), {0, c.m, 0, tiles});
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
      if (c.act == Activation::none || c.act == Activation::relu) {
        const float y32 = static_cast<float>(wanted);
        const bool same = c.out == DType::f32    ? got == y32
                          : c.out == DType::bf16 ? half == float_to_bf16(y32)
                                                 : half == float_to_f16(y32);
        check(same, "reference", c.name() + ": not the expected bits");
      } else {
        if (c.out != DType::f32) got = c.out == DType::bf16 ? bf16_to_float(half) : f16_to_float(half);
        const double unit = c.out == DType::f32 ? 1e-6 : c.out == DType::bf16 ? 1 / 256.0 : 1 / 2048.0;
        check(std::fabs(got - wanted) <= unit * (1 + std::fabs(wanted)), "reference", c.name() + ": activation is off");
      }
    }
  }
  for (const Kernels* t : tables) {
    Buffer<uint8_t> out(bytes);
    std::memset(out.get(), 0xcd, bytes);
    run_gemm(*t, w.packed, a.view(), epilogue(out.get()), {0, c.m, 0, tiles});
    check(std::memcmp(out.get(), reference.get(), bytes) == 0, t->isa, c.name());
    // Any split must give the same bits.
    std::memset(out.get(), 0xcd, bytes);
    const int64_t row = random_int(0, c.m), tile = random_int(0, tiles);
    const int64_t rows[3] = {0, row, c.m}, columns[3] = {0, tile, tiles};
    for (int i = 0; i < 4; ++i) {
      const GemmRange part = {rows[i / 2], rows[i / 2 + 1], columns[i % 2], columns[i % 2 + 1]};
      run_gemm(*t, w.packed, a.view(), epilogue(out.get()), part);
    }
    check(std::memcmp(out.get(), reference.get(), bytes) == 0, t->isa, c.name() + " in four parts");
  }
}

void check_gemms(const std::vector<const Kernels*>& tables) {
  const int64_t ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 50, 64, 129, 260};
  const int64_t ns[] = {1, 7, 15, 16, 17, 31, 32, 33, 47, 64, 100};
  const int64_t ks[] = {1, 3, 31, 63, 64, 65, 100, 130, 384, 1000, 1025, 2112};
  const auto pick = [](const auto& list) { return list[random_int(0, std::size(list) - 1)]; };
  for (int i = 0; i < 600; ++i) {
    Case c{};
    c.bits = i % 2 ? 8 : i % 4 ? 4 : 2;
    c.group = c.bits == 8 ? 0 : 32 << random_int(0, 2);
    c.m = i % 40 < 20 ? ms[i % 20] : pick(ms);
    c.n = pick(ns);
    c.k = c.bits == 8 ? pick(ks) : c.group * random_int(1, 1200 / c.group);
    c.symmetric = random_int(0, 1);
    c.bias = random_int(0, 3) > 0;
    c.residual = random_int(0, 1);
    c.extreme = i % 5 == 0;
    c.act = static_cast<Activation>(random_int(0, 5));
    c.out = static_cast<DType>(random_int(0, 2));
    check_gemm(tables, c);
  }
  const Case empty = {0, 40, 70, 8, 0, true, true, false, false, Activation::none, DType::f32};
  check_gemm(tables, empty);
}

void check_quantize(const Kernels& t) {
  for (int i = 0; i < 300; ++i) {
    const int64_t rows = random_int(0, 6), k = i < 150 ? i + 1 : random_int(1, 1100), k_pad = round_up(k, 64),
                  ld = k + random_int(0, 3);
    const auto type = static_cast<DType>(i % 3);
    Buffer<float> x(rows * ld);
    Buffer<uint16_t> half(rows * ld);
    for (int64_t j = 0; j < x.size; ++j) {
      x[j] = random_int(0, 9) ? random_float(3.0f) : random_int(-2, 2) * 0.5f;  // with ties
      if (type != DType::f32) {
        half[j] = type == DType::bf16 ? float_to_bf16(x[j]) : float_to_f16(x[j]);
        x[j] = type == DType::bf16 ? bf16_to_float(half[j]) : f16_to_float(half[j]);
      }
    }
    const float special[] = {0.0f, NAN, INFINITY, -INFINITY, 1e-31f, 3e38f, 127.0f};
    const int kind = static_cast<int>(random_int(0, 13));
    if (rows > 0 && kind < 7 && type == DType::f32) {
      const bool whole = kind == 0 || kind == 4;
      for (int64_t j = 0; j < k; ++j) {
        if (whole) x[j] = special[kind];
      }
      x[random_int(0, k - 1)] = special[kind];
    }
    Buffer<int8_t> q(rows * k_pad);
    Buffer<float> scale(rows);
    Buffer<int32_t> sums(rows * k_pad / 32);
    std::memset(q.get(), 99, q.size);
    const bool with_sums = random_int(0, 3) > 0;
    const void* data = type == DType::f32 ? static_cast<const void*>(x.get()) : half.get();
    t.quantize_rows(data, type, ld, rows, k, k_pad, q.get(), scale.get(), with_sums ? sums.get() : nullptr);
    for (int64_t r = 0; r < rows; ++r) {
      float amax = 0.0f;
      bool finite = true;
      for (int64_t j = 0; j < k; ++j) {
        finite = finite && std::isfinite(x[r * ld + j]);
        amax = std::fmax(amax, std::fabs(x[r * ld + j]));
      }
      bool same = finite ? scale[r] == amax / 127.0f : std::isnan(scale[r]);
      const float inverse = finite && amax >= 1e-30f ? 127.0f / amax : 0.0f;
      for (int64_t g = 0; g < k_pad / 32; ++g) {
        int32_t sum = 0;
        for (int64_t j = g * 32; j < (g + 1) * 32; ++j) {
          const int wanted = j < k && inverse > 0 ? static_cast<int>(std::nearbyint(x[r * ld + j] * inverse)) : 0;
          same = same && q[r * k_pad + j] == wanted;
          sum += wanted;
        }
        same = same && (!with_sums || sums[r * (k_pad / 32) + g] == sum);
      }
      check(
          same, t.isa,
          "quantize_rows k=" + std::to_string(k) + " type=" + std::to_string(i % 3) + " kind=" + std::to_string(kind));
    }
  }
}

// The fastest of several short batches: what the kernel costs when nothing else interrupts it.
double microseconds(const auto& f) {
  using Clock = std::chrono::steady_clock;
  const auto batch = [&](int count) {
    const auto start = Clock::now();
    for (int j = 0; j < count; ++j) f();
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count() / count;
  };
  f();
  double best = batch(1);
  const int count = static_cast<int>(std::fmax(1.0, std::fmin(1000.0, 300.0 / (best + 0.1))));
  for (double spent = 0; spent < 40e3;) {
    const double us = batch(count);
    best = std::fmin(best, us);
    spent += us * count;
  }
  return best;
}

// Quantization of the activations plus GEMM, one thread.
void time_gemms(const Kernels& t) {
  const int64_t shapes[][2] = {{384, 384}, {1536, 384}, {768, 768}, {3072, 768}, {768, 3072}, {4096, 4096}};
  std::printf("%s, one thread: us (GOPS), quantization included; quantize alone\n%-12s %5s %18s %18s %18s %18s %10s\n",
              t.isa, "N x K", "M", "w8a8", "w8a8 gelu", "w4a8-g128", "w4a8-g32", "quantize");
  for (const auto& s : shapes) {
    Layer w8(s[0], s[1], 8, 0, true, true, false), w4(s[0], s[1], 4, 128, true, true, false),
        w32(s[0], s[1], 4, 32, true, true, false);
    for (const int64_t m : {1, 8, 32, 128, 512}) {
      Buffer<float> x(m * s[1]), scale(m), out(m * s[0]);
      Buffer<int8_t> q(m * w8.k_pad);
      Buffer<int32_t> sums(m * w8.k_pad / 32);
      for (int64_t i = 0; i < x.size; ++i) x[i] = random_float(2.0f);
      const auto quantize = [&] {
        t.quantize_rows(x.get(), DType::f32, s[1], m, s[1], w8.k_pad, q.get(), scale.get(), sums.get());
      };
      const auto linear = [&](Layer& w, Activation act) {
        return microseconds([&] {
          quantize();
          const Epilogue e = {out.get(), s[0], DType::f32, act, nullptr, 0};
          run_gemm(t, w.packed, {q.get(), scale.get(), sums.get(), w.k_pad}, e, {0, m, 0, w.n_pad / 32});
        });
      };
      const double ops = 2e-3 * m * s[0] * s[1];
      const double us[] = {linear(w8, Activation::none), linear(w8, Activation::gelu_erf), linear(w4, Activation::none),
                           linear(w32, Activation::none)};
      std::printf("%5ldx%-6ld %5ld", static_cast<long>(s[0]), static_cast<long>(s[1]), static_cast<long>(m));
      for (const double u : us) std::printf(" %9.1f (%6.0f)", u, ops / u);
      std::printf(" %10.1f\n", microseconds(quantize));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  bool timing = false;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--time") timing = true;
    if (std::string(argv[i]) == "--isa" && i + 1 < argc) only = argv[++i];
  }
  std::vector<const Kernels*> tables;
  const Features& f = features();
#if defined(KDNATIVE_EMULATE_AMX)  // the tiles are software, the rest of these kernels is AVX-512
  const bool amx = f.avx512vnni;
#else
  const bool amx = f.amx;
#endif
  for (const Kernels* t : {f.avx2 ? avx2_kernels() : nullptr, f.avx512vnni ? avx512vnni_kernels() : nullptr,
                           amx ? amx_kernels() : nullptr}) {
    if (t != nullptr && (only.empty() || only == t->isa)) tables.push_back(t);
  }
  check_quantize(*reference_kernels());
  for (const Kernels* t : tables) check_quantize(*t);
  check_gemms(tables);
  std::string names = "reference";
  for (const Kernels* t : tables) names += std::string(" ") + t->isa;
  std::printf("%s: %s, %d failed checks\n", failures == 0 ? "PASS" : "FAIL", names.c_str(), failures);
  if (timing) {
    for (const Kernels* t : tables) time_gemms(*t);
  }
  return failures == 0 ? 0 : 1;
}
