// Products of float activations and 4-bit or 8-bit weights on the emulator, launched as the product launches them:
// every kernel, odd shapes, every epilogue, against sums in float64 within a derived bound.
//
//   w4a16_test            a few shapes in every mode
//   w4a16_test quick      each kernel a few times, for mutants and sanitizers
//   w4a16_test grid       many more
//   w4a16_test counters   what aligned shapes cost: a line of JSON for each kernel
//   w4a16_test layout     sections of packed weights: n k bits group zeros bias input_scales, offsets, bytes
#include "w4a16.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "emulator/emulated_launcher.h"
#include "emulator/testing.h"
#include "numbers.h"
#include "refusals.h"
#include "w4a16.cu"
#include "w4a16_weights.h"
// Needs the vectors of numbers.h, so it comes after it.
#include "../../csrc/cpu/simd/math.h"

using namespace gpu::emulator;
using gpu::Case;
using gpu::ceil_div;

#define KERNELS(bits, type)                          \
  EMULATED_KERNEL(w##bits##a16_gemm_16_##type, 128)  \
  EMULATED_KERNEL(w##bits##a16_gemm_64_##type, 128)  \
  EMULATED_KERNEL(w##bits##a16_gemm_128_##type, 256) \
  EMULATED_KERNEL(w##bits##a16_gemv_##type, 256)     \
  EMULATED_KERNEL(w##bits##a16_dequantize_##type, 256)
KERNELS(4, f16)
KERNELS(4, bf16)
KERNELS(8, f16)
KERNELS(8, bf16)
EMULATED_KERNEL(w4a16_rows_f16, 256)
EMULATED_KERNEL(w4a16_rows_bf16, 256)

// The table that the host has of a tile is that of the kernel.
template <int kBits, int kTilesM, int kWarpsM, int kStages, int kIndex>
constexpr bool agrees() {
  using Tile = gpu::W4A16Gemm<gpu::Half, kBits, kTilesM, kWarpsM, kStages>;
  constexpr const gpu::W4A16Tile& tile = gpu::kW4A16Tiles[kIndex];
  return tile.rows == Tile::kBm && tile.threads == Tile::kThreads && tile.shared_bytes(kBits) == Tile::kSharedBytes;
}
static_assert(agrees<4, 1, 1, 4, 0>() && agrees<4, 4, 1, 3, 1>() && agrees<4, 4, 2, 4, 2>() &&
              agrees<8, 1, 1, 4, 0>() && agrees<8, 4, 1, 3, 1>() && agrees<8, 4, 2, 4, 2>());

namespace {

enum Way { kGemv = -1, kTile16 = 0, kTile64 = 1, kTile128 = 2 };

std::string name_of(const Case& c, Way way, const Options& options) {
  return "way " + std::to_string(way) + " m " + std::to_string(c.m) + " n " + std::to_string(c.n) + " k " +
         std::to_string(c.k) + " bits " + std::to_string(c.bits) + " group " + std::to_string(c.group) + " zeros " +
         std::to_string(c.zeros) + " input scales " + std::to_string(c.input_scales) + " type " +
         std::to_string(static_cast<int>(c.type)) + " activation " + std::to_string(static_cast<int>(c.activation)) +
         " splits " + std::to_string(c.splits) + (options.eager ? " eager" : " lazy") + " seed " +
         std::to_string(options.seed);
}

// T: of x and out; F: of the factors.
template <typename T, typename F>
void check(const Case& c, Way way, const Options& options, Counters* counters = nullptr) {
  std::mt19937 random(c.m * 131 + c.n * 17 + c.k + c.bits);
  const gpu::Weight w = make_weight(c, random);
  const gpu::W4A16Form form{c.bits, c.group, c.zeros, c.bias, c.input_scales};
  const std::vector<uint8_t> packed = pack(w, c, form);
  std::vector<T> x, residual;
  for (int64_t i = 0; i < int64_t{c.m} * c.k; ++i)
    x.push_back(number<T>(c.exact ? static_cast<float>(static_cast<int>(random() % 7) - 3)
                                  : (static_cast<float>(random() % 20001) - 10000) / 3000));
  if (c.m > 2 && !c.exact) x[2 * c.k + c.k / 2] = number<T>(NAN);
  for (int64_t i = 0; i < int64_t{c.m} * c.n; ++i)
    residual.push_back(number<T>(static_cast<float>(static_cast<int>(random() % 9) - 4)));

  DeviceMemory memory;
  EmulatedLauncher launcher;
  launcher.machine.options = options;
  launcher.machine.memory = &memory;
  gpu::W4A16 a{memory.input("x", x),
               c.type,
               memory.input("packed", packed),
               form,
               c.residual ? memory.input("residual", residual) : nullptr,
               nullptr,
               c.activation,
               c.m,
               c.n,
               c.k,
               nullptr,
               nullptr};
  T* out = memory.output<T>("out", size_t(c.m) * c.n);
  a.out = out;
  gpu::W4A16Plan plan = way == kGemv ? gpu::plan_gemv(a, 0) : gpu::plan_gemm(a, gpu::kW4A16Tiles[way], 1, 80);
  if (way == kGemv && c.splits > 1) {  // more than the choice would take, so that small shapes are shared too
    plan.each = 4;
    plan.splits = static_cast<int>(ceil_div(c.k, 4 * 32));
    plan.counters = ceil_div(c.n, 32);
    plan.scratch_bytes = plan.counters * plan.splits * 256 * 4;
  }
  if (way != kGemv && c.splits > 1) {
    plan.each = std::max<int>(1, static_cast<int>(ceil_div(ceil_div(c.k, 64), c.splits)));
    plan.splits = static_cast<int>(ceil_div(ceil_div(c.k, 64), plan.each));
    const auto& tile = gpu::kW4A16Tiles[way];
    plan.counters = ceil_div(c.m, tile.rows) * ceil_div(c.n, 128);
    plan.scratch_bytes = plan.rows_bytes + plan.counters * plan.splits * tile.rows * 128 * 4;
  }
  a.scratch = memory.output<uint8_t>("scratch", plan.scratch_bytes);
  a.counters = memory.in_out("counters", std::vector<uint32_t>(plan.counters, 0));
  gpu::w4a16(launcher, a, plan);
  if (counters != nullptr) counters->add(launcher.machine.counters);
  for (int64_t i = 0; i < plan.counters; ++i) expect(a.counters[i] == 0, "a counter is not 0 again");

  // Of each unit's sum of 32 products, two mma truncate at most 17 terms each; units, warps and blocks are added in
  // fp32 after that. 8 bits are one chain of mma over all inputs.
  const double units = double(ceil_div(c.k, 32)),
               roundings = (c.bits == 4 ? 2 * 34 + units : 2 * 34 + 4 * units) + 8 + plan.splits + 4;
  int wrong = 0;
  for (int i = 0; i < c.m; ++i)
    for (int o = 0; o < c.n; ++o) {
      double sum = 0, size = 0;
      for (int p = 0; p < c.k; ++p) {
        float factor = plain(x[int64_t{i} * c.k + p]);
        if (c.input_scales) factor = factor * w.input_scale[p];
        factor = plain(number<F>(factor));
        const double product = double(factor) * (double(w.step(o, p, c.k)) * w.scale[o * w.groups + p / w.per_group]);
        sum += product, size += std::fabs(product);
      }
      double y = sum, error = size * roundings * 0x1p-24;
      if (c.bias) y += w.bias[o], error += std::fabs(y) * 0x1p-24;
      if (c.activation != gpu::Activation::none) {  // their slope is at most 1.13
        y = kdnative::cpu::activate({static_cast<float>(y)}, static_cast<kdnative::cpu::Activation>(c.activation)).v;
        error = 1.13 * error + 4 * std::fabs(y) * 0x1p-24 + 1e-30;
      }
      if (c.residual) y += plain(residual[int64_t{i} * c.n + o]), error += std::fabs(y) * 0x1p-24;
      const float got = plain(out[int64_t{i} * c.n + o]), expected = plain(number<T>(static_cast<float>(y)));
      // Rounding to the type of out: half a unit in the last place of the larger number.
      const double unit = sizeof(T) == 4 ? 0x1p-24 : std::is_same_v<T, gpu::Half> ? 0x1p-11 : 0x1p-8;
      const bool good = y != y            ? got != got
                        : c.exact         ? got == expected
                        : std::isinf(got) ? std::isinf(expected)
                                          : std::fabs(got - y) <= error + (std::fabs(y) + error) * unit + 0x1p-25;
      if (!good && ++wrong <= 2)
        expect(false, name_of(c, way, options) + " at " + std::to_string(i) + ", " + std::to_string(o) + ": " +
                          std::to_string(got) + ", expected " + std::to_string(y) + " within " + std::to_string(error));
    }
}

void check(const Case& c, Way way, const Options& options, Counters* counters = nullptr) {
  if (c.type == gpu::DType::f32) check<float, gpu::Bf16>(c, way, options, counters);
  if (c.type == gpu::DType::f16) check<gpu::Half, gpu::Half>(c, way, options, counters);
  if (c.type == gpu::DType::bf16) check<gpu::Bf16, gpu::Bf16>(c, way, options, counters);
}

constexpr gpu::DType kTypes[] = {gpu::DType::f16, gpu::DType::bf16, gpu::DType::f32};

void check_shapes(const std::vector<std::vector<int>>& shapes, const std::vector<Options>& modes) {
  int at = 0;
  for (const auto& s : shapes)
    for (const Way way : {kGemv, kTile16, kTile64, kTile128})
      for (const Options& options : modes) {
        if (way == kGemv && s[0] > 8) continue;
        // In turn, since all together would take long: each value meets each kernel.
        Case c{s[0], s[1], s[2]};
        c.bits = s[3] == 0 ? 8 : 4;
        c.group = s[3];
        c.zeros = c.bits == 4 && at % 2 == 0;
        c.bias = at % 4 != 3;
        c.residual = at % 5 < 2;
        c.input_scales = at % 7 < 2;
        c.type = kTypes[at % 3];
        c.activation = static_cast<gpu::Activation>(at % 6);
        c.splits = at % 4 == 0 ? 1 : 3;
        check(c, way, options);
        ++at;
      }
}

// Sums that fp32 holds: one wrong code, scale or row is seen.
void check_exact(const Options& options) {
  for (const Way way : {kGemv, kTile16, kTile64, kTile128})
    for (const gpu::DType type : kTypes)
      for (const int bits : {4, 8}) {
        Case c{way == kGemv ? 8 : 21, 70, 160, bits, bits == 4 ? 32 : 0};
        c.type = type, c.exact = true, c.zeros = bits == 4, c.residual = true, c.activation = gpu::Activation::relu;
        c.input_scales = type != gpu::DType::f16, c.splits = type == gpu::DType::f32 ? 1 : 2;
        check(c, way, options);
      }
}

// Packed weights that end with a section without padding, and rows of x that don't fill a unit: what is read too far is
// read outside.
void check_ends(const Options& options) {
  for (const Way way : {kGemv, kTile16, kTile64, kTile128}) {
    check({3, 33, 96, 4, 32, false, false}, way, options);
    check({3, 33, 128, 4, 32, true, false}, way, options);
    check({3, 33, 78, 8, 0, false, false}, way, options);
  }
}

template <typename T>
void check_dequantize(const Case& c, const Options& options, Counters* counters = nullptr) {
  std::mt19937 random(c.n * 17 + c.k);
  const gpu::Weight w = make_weight(c, random);
  const gpu::W4A16Form form{c.bits, c.group, c.zeros, c.bias, c.input_scales};
  DeviceMemory memory;
  EmulatedLauncher launcher;
  launcher.machine.options = options;
  launcher.machine.memory = &memory;
  T* out = memory.output<T>("out", size_t(c.n) * c.k);
  const gpu::DType type = std::is_same_v<T, gpu::Half> ? gpu::DType::f16 : gpu::DType::bf16;
  gpu::w4a16_dequantize(launcher, memory.input("packed", pack(w, c, form)), form, c.n, c.k, type, out);
  if (counters != nullptr) counters->add(launcher.machine.counters);
  int wrong = 0;
  for (int o = 0; o < c.n; ++o)
    for (int i = 0; i < c.k; ++i) {
      float v = w.step(o, i, c.k) * w.scale[o * w.groups + i / w.per_group];
      if (c.input_scales) v = v * w.input_scale[i];
      if (out[o * c.k + i].bits != number<T>(v).bits && v != 0 && ++wrong <= 2)
        expect(false,
               "dequantize " + name_of(c, kGemv, options) + " at " + std::to_string(o) + ", " + std::to_string(i));
    }
}

void check_all_dequantize(const Options& options) {
  check_dequantize<gpu::Half>({0, 70, 96, 4, 32, true}, options);
  check_dequantize<gpu::Bf16>({0, 33, 256, 4, 128, false, false, false, true}, options);
  check_dequantize<gpu::Half>({0, 5, 77, 8, 0}, options);
  check_dequantize<gpu::Half>({0, 6, 42, 8, 0}, options);
  check_dequantize<gpu::Bf16>({0, 40, 40, 8, 0, false, false, false, true}, options);
}

// What is chosen, and what is refused.
void check_choices() {
  Recorder launcher;
  const auto of = [](int64_t m, int64_t n, int64_t k, gpu::W4A16Form form = {4, 128, false, true, false}) {
    return gpu::W4A16{nullptr, gpu::DType::f16, nullptr, form, nullptr, nullptr, gpu::Activation::none, m, n,
                      k,       nullptr,         nullptr};
  };
  const auto chosen = [&](int64_t m, int64_t n, int64_t k, int sms, int capability) {
    const gpu::W4A16Plan p = gpu::choose_w4a16(of(m, n, k), sms, capability);
    static constexpr const char* kWays[] = {"gemv", "gemm", "dequantize"};
    return std::string(kWays[p.way]) + " " + std::to_string(p.tile == nullptr ? 0 : p.tile->rows) + " " +
           std::to_string(p.splits);
  };
  const auto is = [](const std::string& got, const char* wanted) {
    expect(got == wanted, got + ", expected " + wanted);
  };
  is(chosen(1, 4096, 4096, 132, 90), "gemv 0 2");
  is(chosen(1, 14336, 4096, 132, 90), "gemv 0 1");
  is(chosen(1, 4096, 14336, 132, 90), "gemv 0 4");
  is(chosen(4, 768, 768, 132, 90), "gemv 0 1");
  is(chosen(8, 14336, 4096, 132, 90), "gemv 0 2");
  is(chosen(16, 4096, 4096, 132, 90), "gemm 16 11");
  // Of the small tile, a multiprocessor holds three by its registers; two with 8 bits where there is little memory.
  const auto splits = [&](int capability) {
    return gpu::choose_w4a16(of(16, 4096, 4096, {8, 0, false, true, false}), 84, capability).splits;
  };
  expect(splits(90) == 7 && splits(80) == 7 && splits(86) == 5 && splits(120) == 5, "blocks by shared memory");
  const std::pair<int, int> allowed[] = {{80, 2}, {86, 1}, {87, 2}, {89, 1}, {90, 3}, {100, 3}, {120, 1}, {121, 1}};
  for (const auto& [capability, blocks] : allowed)
    expect(gpu::shared_allows(64 << 10, capability) == blocks, "memory of " + std::to_string(capability));
  is(chosen(64, 4096, 4096, 132, 90), "gemm 64 4");
  is(chosen(256, 14336, 4096, 132, 90), "gemm 128 1");
  is(chosen(2048, 4096, 4096, 132, 90), "dequantize 0 1");
  is(chosen(1024, 4096, 4096, 108, 80), "gemm 128 1");
  for (int capability : {80, 86, 89, 90})
    for (const auto& tile : gpu::kW4A16Tiles)
      for (const int bits : {4, 8})
        expect(size_t(tile.shared_bytes(bits)) <= most_shared_bytes(capability), "too much shared memory");
  const auto refuses = [&](const gpu::W4A16& a, const char* words) {
    expect_refusal(words, [&] { gpu::w4a16(launcher, a, gpu::choose_w4a16(a, 4, 80)); });
  };
  refuses(of(1, 8, 64, {2, 64, false, false, false}), "a weight [8, 64] of 2 bits");
  refuses(of(1, 8, 64, {4, 48, false, false, false}), "groups of 48");
  refuses(of(1, 8, 96, {4, 64, false, false, false}), "that divide the inputs");
  refuses(of(1, 8, 64, {8, 64, false, false, false}), "8 bits without groups");
  refuses(of(1, 0, 64), "a weight [0, 64]");
  refuses(of(4096, 8, 128), "the plan is to dequantize");
  gpu::W4A16 wrong = of(1, 8, 128);
  wrong.packed = reinterpret_cast<const uint8_t*>(8);
  refuses(wrong, "must lie on 16 bytes");
  gpu::w4a16(launcher, of(0, 8, 128), gpu::choose_w4a16(of(0, 8, 128), 4, 80));
  expect(launcher.launched.empty(), "no rows, no launch");
}

// x as factors, alone: in products it comes with a tile.
template <typename T>
void print_cost_of_rows(const char* name) {
  const int m = 16, k = 1024;
  DeviceMemory memory;
  EmulatedLauncher launcher;
  launcher.machine.memory = &memory;
  const void* x = memory.input("x", std::vector<float>(m * k, 1.5f));
  const float* input_scale = memory.input("input_scale", std::vector<float>(k, 2.0f));
  T* out = memory.output<T>("out", m * k);
  int type = static_cast<int>(gpu::DType::f32), paired = 1, inputs = k, ld = k;
  void* arguments[] = {&x, &input_scale, &out, &type, &paired, &inputs, &ld};
  gpu::Kernel kernel{"w4a16", name};
  kernel.grid_x = m, kernel.threads = 256;
  launcher.launch(kernel, arguments);
  for (int i = 0; i < m * k; ++i) expect(plain(out[i]) == 3, name);
  print_counters(name, "16 1024", launcher.machine.counters);
}

void print_cost() {
  print_cost_of_rows<gpu::Half>("w4a16_rows_f16");
  print_cost_of_rows<gpu::Bf16>("w4a16_rows_bf16");
  const std::vector<std::pair<Way, const char*>> ways = {
      {kGemv, "gemv"}, {kTile16, "gemm_16"}, {kTile64, "gemm_64"}, {kTile128, "gemm_128"}};
  for (const auto& [way, name] : ways)
    for (const int bits : {4, 8})
      for (const gpu::DType type : {gpu::DType::f16, gpu::DType::bf16}) {
        Case c{way == kGemv ? 8 : 2 * gpu::kW4A16Tiles[way].rows, 128, 512, bits, bits == 4 ? 128 : 0, bits == 4};
        c.type = type, c.residual = true, c.splits = way == kTile16 ? 2 : 1;
        Counters counters;
        check(c, way, {}, &counters);
        print_counters("w" + std::to_string(bits) + "a16_" + name + (type == gpu::DType::f16 ? "_f16" : "_bf16"),
                       std::to_string(c.m) + " " + std::to_string(c.n) + " " + std::to_string(c.k) + " " +
                           std::to_string(c.splits),
                       counters);
      }
  for (const int bits : {4, 8}) {
    Counters counters;
    check_dequantize<gpu::Half>({0, 64, 512, bits, bits == 4 ? 64 : 0, bits == 4}, {}, &counters);
    print_counters("w" + std::to_string(bits) + "a16_dequantize_f16", "64 512", counters);
  }
}

void print_layouts() {
  for (const gpu::W4A16Form& form : std::vector<gpu::W4A16Form>{{4, 32, true, true, true},
                                                                {4, 64, false, false, false},
                                                                {4, 128, true, false, true},
                                                                {8, 0, false, true, false},
                                                                {8, 0, false, false, true}}) {
    const int64_t n = 37, k = form.group == 0 ? 77 : 384;
    const gpu::W4A16Layout l = gpu::w4a16_layout(n, k, form);
    std::printf(
        "{\"given\": [%ld, %ld, %d, %ld, %d, %d, %d], \"offsets\": [%ld, %ld, %ld, %ld, %ld], \"bytes\": %ld}\n", n, k,
        form.bits, form.group, form.zeros, form.bias, form.input_scales, l.codes, l.scale, l.zero, l.bias,
        l.input_scale, l.bytes);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  return finish([&] {
    if (what == "counters") return print_cost();
    if (what == "layout") return print_layouts();
    check_choices();
    check_exact({.eager = false, .seed = 5});
    check_ends({.seed = 5});
    check_all_dequantize({.seed = 5});
    // m, n, k, group (0: 8 bits). Below, at and above tiles and steps; primes.
    if (what == "quick")
      return check_shapes({{7, 37, 384, 128}, {8, 33, 211, 0}, {67, 130, 352, 32}}, {{.eager = false, .seed = 9}});
    std::vector<std::vector<int>> shapes = {{1, 1, 32, 32}, {5, 37, 384, 128}, {7, 131, 192, 64},
                                            {1, 1, 1, 0},   {8, 33, 211, 0},   {67, 130, 352, 32}};
    if (what == "grid")
      for (int m : {1, 2, 8, 15, 16, 17, 64, 65, 127, 129})
        for (int n : {1, 3, 4, 31, 32, 63, 65, 128, 132, 257})
          for (const auto& k : std::vector<std::vector<int>>{
                   {32, 32}, {64, 64}, {128, 128}, {640, 128}, {416, 32}, {2176, 64}, {1, 0}, {129, 0}, {640, 0}})
            shapes.push_back({m, n, k[0], k[1]});
    check_shapes(shapes, every_mode());
    Case long_sum{2, 3, 14336, 4, 128};
    long_sum.extremes = true;
    check(long_sum, kGemv, {.eager = false, .seed = 3});
    check(long_sum, kTile16, {});
  });
}
