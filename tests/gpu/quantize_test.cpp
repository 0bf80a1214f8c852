// Quantization per token on the emulator: the bits of the CPU's reference kernel; with a norm in front, the norm in
// double precision within a derived bound.
//
//   quantize_test            some shapes
//   quantize_test quick      less, for sanitizers
//   quantize_test grid       more
//   quantize_test counters   what aligned shapes cost: a line of JSON for each kernel
#include "quantize.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/cpu/reference/quantize.cpp"
#include "emulator/emulated_launcher.h"
#include "emulator/testing.h"
#include "numbers.h"
#include "quantize.cu"
#include "refusals.h"

using namespace gpu::emulator;

#define ROW_KERNELS(name)               \
  EMULATED_KERNEL(quantize_##name, 256) \
  EMULATED_KERNEL(norm_quantize_##name, 256)
ROW_KERNELS(warp_f32)
ROW_KERNELS(warp_bf16)
ROW_KERNELS(warp_f16)
ROW_KERNELS(block_f32)
ROW_KERNELS(block_bf16)
ROW_KERNELS(block_f16)

namespace {

struct Case {
  int rows, k;
  gpu::DType type = gpu::DType::f32;
  bool input_scale = false;
  bool aligned = true;  // false: x lies one element beside
  bool added = false, sum = false, beta = true, centered = true;
  bool plain = false;  // random rows only
};

std::string name_of(const Case& c, const Options& options) {
  return "type " + std::to_string(static_cast<int>(c.type)) + " rows " + std::to_string(c.rows) + " k " +
         std::to_string(c.k) + (c.input_scale ? " input scales" : "") + (c.aligned ? "" : " beside") +
         (c.added ? " added" : "") + (c.centered ? "" : " rms") + " seed " + std::to_string(options.seed);
}

// Rows [rows, k]. Without `plain` some are special: zeros, tiny ones, NaN, infinity, the largest, constant ones, and
// one whose values lie far from zero.
template <typename T>
std::vector<T> values(const Case& c, std::mt19937& random, bool finite) {
  std::normal_distribution<float> normal;
  std::vector<T> x(size_t(c.rows) * c.k);
  const float largest = c.type == gpu::DType::f16 ? 65504.0f : 3e38f;
  for (int r = 0; r < c.rows; ++r)
    for (int i = 0; i < c.k; ++i) {
      float v = normal(random);
      if (!c.plain && r == 1) v = 0;
      if (!c.plain && r == 2) v = v * 1e-31f;
      if (!c.plain && r == 3) v = 3;
      if (!c.plain && r == 4) v = v + 1000;
      if (!c.plain && !finite && r == 5) v = i == c.k - 1 ? NAN : v;
      if (!c.plain && !finite && r == 6) v = i == c.k / 2 ? -INFINITY : v;
      if (!c.plain && !finite && r == 7) v = i % 2 == 0 ? largest : -largest / 3;
      if (!c.plain && r == 8) v = v * 3e-6f;  // subnormal as fp16
      x[size_t(r) * c.k + i] = number<T>(v);
    }
  return x;
}

// What both kinds of kernel are given and return.
template <typename T>
struct Run {
  DeviceMemory memory;
  EmulatedLauncher launcher;
  std::vector<float> input_scale;
  int64_t k_pad;
  int8_t* q;
  float* scale;
  gpu::Quantize arguments;

  Run(const Case& c, const std::vector<T>& x, const Options& options, std::mt19937& random) {
    launcher.machine.options = options;
    launcher.machine.memory = &memory;
    k_pad = (c.k + 127) / 128 * 128;
    q = memory.output<int8_t>("q", size_t(c.rows) * k_pad);
    scale = memory.output<float>("scale", c.rows);
    if (c.input_scale)
      for (int i = 0; i < c.k; ++i) input_scale.push_back(0.5f + static_cast<float>(random() % 1000) / 500);
    std::vector<T> shifted = x;
    if (!c.aligned) shifted.insert(shifted.begin(), T{});
    arguments = {memory.input("x", shifted) + (c.aligned ? 0 : 1),
                 c.type,
                 c.input_scale ? memory.input("input_scale", input_scale) : nullptr,
                 c.rows,
                 c.k,
                 k_pad,
                 q,
                 scale};
  }
};

template <typename T>
void check_plain(const Case& c, const Options& options, Counters* counters = nullptr) {
  std::mt19937 random(c.rows * 131 + c.k);
  const std::vector<T> x = values<T>(c, random, false);
  Run<T> run(c, x, options, random);
  gpu::quantize(run.launcher, run.arguments);
  if (counters != nullptr) counters->add(run.launcher.machine.counters);

  std::vector<int8_t> q(size_t(c.rows) * run.k_pad);
  std::vector<float> scale(c.rows);
  kdnative::cpu::reference::quantize_rows(x.data(), static_cast<kdnative::cpu::DType>(c.type), c.k,
                                          c.input_scale ? run.input_scale.data() : nullptr, c.rows, c.k, run.k_pad,
                                          q.data(), run.k_pad, scale.data(), nullptr);
  for (int r = 0; r < c.rows; ++r) {
    expect(same(run.scale[r], scale[r]), name_of(c, options) + ": scale of row " + std::to_string(r) + " is " +
                                             std::to_string(run.scale[r]) + ", expected " + std::to_string(scale[r]));
    expect(std::equal(q.begin() + r * run.k_pad, q.begin() + (r + 1) * run.k_pad, run.q + r * run.k_pad),
           name_of(c, options) + ": codes of row " + std::to_string(r));
  }
}

// How far a value of the norm, |v| = |(h - mean) * inverse * gamma + beta| * factor, may be from double precision. u is
// half a unit in the last place. A sum of k terms is a tree of at most `depth` additions: a thread's own columns, five
// shuffles, eight warps. So the mean is off by at most depth u mean|h|; the variance, of exact differences from that
// mean, by the mean's error squared and (depth + 4) u of itself; 1 / sqrt by half of that and 3 u. The last steps round
// three times.
struct Bound {
  double mean_error, inverse_error;  // the second one relative
  Bound(const Case& c, double mean_size, double variance, double eps) {
    const double u = FLT_EPSILON / 2, threads = c.k > gpu::kWarpColumns ? 256 : 32;
    const double depth = std::ceil(c.k / threads / 4) * 4 + 5 + 8 + 1;
    mean_error = c.centered ? depth * u * mean_size : 0;
    inverse_error = (mean_error * mean_error / (variance + eps) + (depth + 5) * u) / 2 + 3 * u;
  }
  double of(double h, double mean, double inverse, double gamma, double beta, double factor) const {
    const double u = FLT_EPSILON / 2, difference = std::fabs(h - mean);
    const double error = ((mean_error + u * difference) * inverse + difference * inverse * (inverse_error + 2 * u));
    const double y = difference * inverse * std::fabs(gamma) + std::fabs(beta);
    return (error * std::fabs(gamma) + 2 * u * y) * factor * 1.01;  // what is quadratic in u
  }
};

template <typename T>
void check_norm(const Case& c, const Options& options, Counters* counters = nullptr) {
  std::mt19937 random(c.rows * 131 + c.k);
  const std::vector<T> x = values<T>(c, random, true), added = values<T>(c, random, true);
  std::vector<float> gamma, beta;
  for (int i = 0; i < c.k; ++i) {
    gamma.push_back(static_cast<float>(random() % 2001) / 1000 - 1);
    beta.push_back(static_cast<float>(random() % 2001) / 1000 - 1);
  }
  const double eps = 1e-5f;
  Run<T> run(c, x, options, random);
  T* sum = c.sum ? run.memory.template output<T>("sum", x.size()) : nullptr;
  const gpu::Norm norm{c.added ? run.memory.input("added", added) : nullptr,
                       sum,
                       run.memory.input("gamma", gamma),
                       c.beta ? run.memory.input("beta", beta) : nullptr,
                       static_cast<float>(eps),
                       c.centered};
  gpu::norm_quantize(run.launcher, norm, run.arguments);
  if (counters != nullptr) counters->add(run.launcher.machine.counters);

  for (int r = 0; r < c.rows; ++r) {
    const std::string row = name_of(c, options) + " norm, row " + std::to_string(r);
    std::vector<double> h(c.k);
    double mean = 0, mean_size = 0, variance = 0;
    for (int i = 0; i < c.k; ++i) {
      const size_t at = size_t(r) * c.k + i;
      const T value = c.added ? number<T>(plain(x[at]) + plain(added[at])) : x[at];
      if (c.sum) expect(same(plain(sum[at]), plain(value)), row + ": the sum");
      h[i] = plain(value);
      mean += h[i] / c.k;
      mean_size += std::fabs(h[i]) / c.k;
    }
    if (!c.centered) mean = 0;
    for (double v : h) variance += (v - mean) * (v - mean) / c.k;
    const double inverse = 1 / std::sqrt(variance + eps);
    const Bound bound(c, mean_size, variance, eps);
    double amax = 0, largest_error = 0;
    std::vector<double> v(c.k), error(c.k);
    for (int i = 0; i < c.k; ++i) {
      const double b = c.beta ? beta[i] : 0, factor = c.input_scale ? run.input_scale[i] : 1;
      v[i] = ((h[i] - mean) * inverse * gamma[i] + b) * factor;
      error[i] = bound.of(h[i], mean, inverse, gamma[i], b, factor) + FLT_EPSILON * std::fabs(v[i]);
      amax = std::max(amax, std::fabs(v[i]));
      largest_error = std::max(largest_error, error[i]);
    }
    const double scale = run.scale[r];
    expect(std::fabs(scale - amax / 127) <= largest_error / 127 + FLT_EPSILON * amax / 127 + 1e-40,
           row + ": scale " + std::to_string(scale) + ", expected " + std::to_string(amax / 127));
    for (int i = 0; i < run.k_pad; ++i) {
      const int8_t q = run.q[r * run.k_pad + i];
      const bool good =
          i < c.k ? std::fabs(q * scale - v[i]) <= scale * (0.5 + 127 * 2 * FLT_EPSILON) + error[i] + 1e-40 : q == 0;
      if (!good) {
        expect(false, row + ", column " + std::to_string(i) + ": " + std::to_string(q * scale) + ", expected " +
                          std::to_string(i < c.k ? v[i] : 0));
        break;
      }
    }
  }
}

void check(const Case& c, const Options& options, bool norm, Counters* counters = nullptr) {
  if (c.type == gpu::DType::f32) (norm ? check_norm<float> : check_plain<float>)(c, options, counters);
  if (c.type == gpu::DType::bf16) (norm ? check_norm<gpu::Bf16> : check_plain<gpu::Bf16>)(c, options, counters);
  if (c.type == gpu::DType::f16) (norm ? check_norm<gpu::Half> : check_plain<gpu::Half>)(c, options, counters);
}

constexpr gpu::DType kTypes[] = {gpu::DType::f32, gpu::DType::bf16, gpu::DType::f16};

void check_shapes(bool many, bool few) {
  // Of a warp a row, of a block a row, and longer than what threads keep; vectors, and rows that have none.
  std::vector<std::vector<int>> shapes = {{1, 1},    {9, 3},    {17, 31},  {9, 130}, {9, 1024},
                                          {3, 1025}, {9, 1100}, {2, 8205}, {2, 9000}};
  if (many)
    for (int k : {2, 4, 32, 127, 128, 129, 512, 768, 1000, 1023, 1028, 2048, 4099, 8192, 8196, 16384, 20001})
      for (int rows : {1, 8, 9}) shapes.push_back({rows, k});
  if (few) shapes = {{9, 130}, {1, 1025}, {1, 8205}};
  // In order and in a random schedule, in turn where not much is wanted. Nothing is copied asynchronously, so that
  // late and early copies are the same.
  const std::vector<Options> modes = {{.eager = false}, {.eager = false, .seed = 7}};
  int at = 0;
  for (const auto& s : shapes)
    for (const gpu::DType type : kTypes) {
      const Options* only = many ? nullptr : &modes[at / 2 % 2];
      for (const Options& options : modes) {
        if (only != nullptr && only != &options) continue;
        check({s[0], s[1], type, at % 2 == 0, at % 5 != 4}, options, false);
        check({s[0], s[1], type, at % 2 == 1, at % 5 != 3, at % 3 == 0, at % 3 == 0, at % 4 != 3, at % 7 != 6}, options,
              true);
        ++at;
      }
    }
}

void check_not_finite() {
  std::vector<float> x(4 * 40, 1.0f);
  x[3] = NAN, x[40 + 7] = INFINITY;
  std::mt19937 random(1);
  Run<float> run({4, 40, gpu::DType::f32}, x, {}, random);
  const std::vector<float> gamma(40, 1.0f);
  gpu::norm_quantize(run.launcher, {nullptr, nullptr, run.memory.input("gamma", gamma), nullptr, 1e-5f, true},
                     run.arguments);
  for (int r = 0; r < 2; ++r) {
    expect(std::isnan(run.scale[r]), "a norm of a row that isn't finite");
    expect(std::all_of(run.q + r * run.k_pad, run.q + (r + 1) * run.k_pad, [](int8_t q) { return q == 0; }),
           "its codes");
  }
  expect(run.scale[2] == 0 && run.scale[3] == 0, "rows beside it");
}

void check_refusals() {
  Recorder launcher;
  const auto refuses = [&](int64_t rows, int64_t k, int64_t k_pad, const char* words) {
    expect_refusal(
        words, [&] { gpu::quantize(launcher, {nullptr, gpu::DType::f32, nullptr, rows, k, k_pad, nullptr, nullptr}); });
  };
  refuses(int64_t{1} << 31, 8, 128, "x is [2147483648, 8], at most 2147483392 rows of at most 1073741824");
  refuses(4, (1 << 30) + 4, (1 << 30) + 4, "x is [4, 1073741828], at most");
  refuses(4, 8, 6, "rows of 8 columns can't be padded to 6");
  refuses(4, 5, 6, "rows of 5 columns can't be padded to 6");
  const float* beside = reinterpret_cast<const float*>(8);
  const gpu::Quantize empty{nullptr, gpu::DType::f32, nullptr, 0, 8, 128, nullptr, nullptr};
  gpu::Quantize wrong = empty;
  wrong.input_scale = beside;
  const char* const place = "must lie on 16 bytes";
  expect_refusal(place, [&] { gpu::quantize(launcher, wrong); });
  for (const gpu::Norm& norm :
       {gpu::Norm{nullptr, nullptr, beside, nullptr, 0, true}, gpu::Norm{nullptr, nullptr, nullptr, beside, 0, true}})
    expect_refusal(place, [&] { gpu::norm_quantize(launcher, norm, empty); });
  gpu::quantize(launcher, empty);
  expect(launcher.launched.empty(), "no rows, no launch");
}

void print_cost() {
  for (const bool norm : {false, true})
    for (const gpu::DType type : kTypes)
      for (const int k : {1024, 4096}) {
        Counters counters;
        check({16, k, type, true, true, norm, norm, true, true, true}, {}, norm, &counters);
        const gpu::Quantize shape{nullptr, type, nullptr, 16, k, k, nullptr, nullptr};
        print_counters(gpu::quantize_kernel(shape, norm).name, "16 " + std::to_string(k), counters);
      }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  return finish([&] {
    if (what == "counters") return print_cost();
    check_refusals();
    check_not_finite();
    check_shapes(what == "grid", what == "quick");
  });
}
