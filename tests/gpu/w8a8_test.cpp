// The int8 product on the emulator, launched as the product launches it: every tile, odd shapes, every epilogue, with
// the bits of the formula in csrc/cpu/kernels.h. Activations beyond relu are compared with the CPU's own code.
//
//   w8a8_test            a few shapes in every mode
//   w8a8_test quick      less, for sanitizers
//   w8a8_test grid       many more
//   w8a8_test counters   what aligned shapes cost: a line of JSON for each tile
//   w8a8_test layout     sections of packed weights: n k bias input_scale group, offsets, bytes
#include "w8a8.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "emulator/emulated_launcher.h"
#include "emulator/testing.h"
#include "refusals.h"
#include "w8a8.cu"
// clang-format off: the second takes its vectors from the first
#include "numbers.h"
#include "../../csrc/cpu/simd/math.h"
// clang-format on

using namespace gpu::emulator;

#define TILE_KERNELS(tile)                                   \
  EMULATED_KERNEL(w8a8_##tile##_f32, W8A8_##tile::kThreads)  \
  EMULATED_KERNEL(w8a8_##tile##_bf16, W8A8_##tile::kThreads) \
  EMULATED_KERNEL(w8a8_##tile##_f16, W8A8_##tile::kThreads)
TILE_KERNELS(128x128)
TILE_KERNELS(128x128_short)
TILE_KERNELS(64x64)
TILE_KERNELS(64x32)
TILE_KERNELS(16x32)

// The table that the host has of a tile is that of the kernel.
template <typename Tile, int kIndex>
constexpr bool agrees() {
  constexpr const gpu::W8A8TileShape& shape = gpu::kW8A8Tiles[kIndex];
  return shape.rows == Tile::kBm && shape.columns == Tile::kBn && shape.bytes_k == Tile::kBk &&
         shape.threads == Tile::kThreads && shape.shared_bytes() == Tile::kSharedBytes &&
         gpu::kW8A8PadK % Tile::kBk == 0;
}
static_assert(agrees<W8A8_128x128, 0>() && agrees<W8A8_128x128_short, 1>() && agrees<W8A8_64x64, 2>() &&
              agrees<W8A8_64x32, 3>() && agrees<W8A8_16x32, 4>());

namespace {

struct Case {
  int m, n, k;
  gpu::DType type = gpu::DType::f32;
  gpu::Activation activation = gpu::Activation::none;
  bool bias = true, residual = false;
  int fill = 0;          // of both factors; 0: random codes
  bool special = false;  // x is 0, and the bias what activations treat in a way of its own
};

std::string name_of(const Case& c, const gpu::W8A8TileShape& tile, const Options& options) {
  return std::string(tile.names[static_cast<int>(c.type)]) + " m " + std::to_string(c.m) + " n " + std::to_string(c.n) +
         " k " + std::to_string(c.k) + " activation " + std::to_string(static_cast<int>(c.activation)) +
         (options.eager ? " eager" : " lazy") + " seed " + std::to_string(options.seed);
}

template <typename T>
void check(const Case& c, const gpu::W8A8TileShape& tile, const Options& options, Counters* counters = nullptr) {
  std::mt19937 random(c.m * 131 + c.n * 17 + c.k);
  const int64_t k_pad = gpu::w8a8_layout(c.n, c.k, {}).k_pad;
  const auto codes = [&](int rows) {
    std::vector<int8_t> v(rows * k_pad);
    for (int r = 0; r < rows; ++r)
      for (int i = 0; i < c.k; ++i)
        v[r * k_pad + i] = static_cast<int8_t>(c.fill != 0 ? c.fill : static_cast<int>(random() % 256) - 128);
    return v;
  };
  const auto floats = [&](int count, float size) {
    std::vector<float> v(count);
    for (float& f : v) f = (static_cast<float>(random() % 20001) - 10000) / 10000 * size;
    return v;
  };
  std::vector<int8_t> x = codes(c.m);
  const std::vector<int8_t> w = codes(c.n);
  std::vector<float> scale_x = floats(c.m, 0.02f);
  std::vector<float> bias = floats(c.n, 3.0f);
  const std::vector<float> scale_w = floats(c.n, 0.01f), added = floats(c.m * c.n, 3.0f);
  if (c.m > 2) scale_x[2] = NAN;  // a row that had no codes
  if (c.special) {
    x.assign(x.size(), 0);
    bias = {0.0f,  -0.0f,  1e-30f, 5.2f,   -5.2f,    8.5f,      9.02f, -9.02f,
            87.4f, -87.4f, 88.8f,  -88.8f, INFINITY, -INFINITY, NAN,   1.5f};
  }
  std::vector<T> residual;
  for (float v : added) residual.push_back(number<T>(v));

  DeviceMemory memory;
  EmulatedLauncher launcher;
  launcher.machine.options = options;
  launcher.machine.memory = &memory;
  T* out = memory.output<T>("out", size_t(c.m) * c.n);
  gpu::w8a8(launcher,
            {{memory.input("x", x), memory.input("scale_x", scale_x), memory.input("scale_w", scale_w),
              c.bias ? memory.input("bias", bias) : nullptr, c.residual ? memory.input("residual", residual) : nullptr,
              out, c.type, c.activation, c.m, c.n, k_pad},
             memory.input("w", w)},
            tile);
  if (counters != nullptr) counters->add(launcher.machine.counters);

  int wrong = 0;
  for (int i = 0; i < c.m; ++i)
    for (int j = 0; j < c.n; ++j) {
      int32_t sum = 0;
      for (int p = 0; p < c.k; ++p) sum += x[i * k_pad + p] * w[j * k_pad + p];
      float y = static_cast<float>(sum) * (scale_x[i] * scale_w[j]);
      if (c.bias) y = y + bias[j];
      y = kdnative::cpu::activate({y}, static_cast<kdnative::cpu::Activation>(c.activation)).v;
      if (c.residual) y = y + plain(residual[i * c.n + j]);
      const float expected = plain(number<T>(y)), got = plain(out[i * c.n + j]);
      if (!same(got, expected) && ++wrong <= 2)
        expect(false, name_of(c, tile, options) + " at " + std::to_string(i) + ", " + std::to_string(j) + ": " +
                          std::to_string(got) + ", expected " + std::to_string(expected));
    }
}

void check(const Case& c, const gpu::W8A8TileShape& tile, const Options& options, Counters* counters = nullptr) {
  if (c.type == gpu::DType::f32) check<float>(c, tile, options, counters);
  if (c.type == gpu::DType::f16) check<gpu::Half>(c, tile, options, counters);
  if (c.type == gpu::DType::bf16) check<gpu::Bf16>(c, tile, options, counters);
}

constexpr gpu::DType kTypes[] = {gpu::DType::f32, gpu::DType::bf16, gpu::DType::f16};

void check_shapes(bool many, bool few) {
  // Below, at and above a tile and a stage; primes; more stages than the ring has.
  std::vector<std::vector<int>> shapes = {{1, 1, 1}, {17, 9, 33}, {70, 66, 449}, {33, 68, 128}, {5, 131, 1000}};
  if (many)
    for (int m : {1, 2, 15, 16, 31, 64, 65, 127, 128, 129})
      for (int n : {1, 3, 4, 31, 32, 63, 65, 128, 132, 257})
        for (int k : {1, 16, 63, 64, 127, 129, 512, 641}) shapes.push_back({m, n, k});
  if (few) shapes.resize(3);
  int at = 0;
  for (const auto& s : shapes)
    for (const auto& tile : gpu::kW8A8Tiles)
      for (const Options& options : every_mode()) {
        if (few && (!options.eager || options.seed == 0)) continue;
        // In turn, since all together would take long: each value meets each tile.
        const auto activation = static_cast<gpu::Activation>(at % 6);
        check({s[0], s[1], s[2], kTypes[at % 3], activation, at % 4 != 0, at % 5 < 2}, tile, options);
        ++at;
      }
}

// What is launched by whom: the choice, and what is refused.
void check_launches() {
  Recorder launcher;
  gpu::W8A8 huge{};
  huge.m = int64_t{1} << 31, huge.n = 8, huge.k_pad = 128;
  const auto refuses = [&](const gpu::W8A8& a, const char* words) {
    expect_refusal(words, [&] { gpu::w8a8(launcher, a); });
  };
  refuses(huge, "x [2147483648, 128], w [8, 128]");
  gpu::W8A8 wrong = huge;
  wrong.m = 3;
  for (const int64_t k_pad : {64, 192}) {
    wrong.k_pad = k_pad;
    refuses(wrong, "padded to a multiple of 128");
  }
  wrong = huge;
  wrong.m = int64_t{1} << 30, wrong.n = int64_t{1} << 20;
  refuses(wrong, "and a grid has at most 2147483647; give fewer rows at a time");
  wrong = huge;
  wrong.m = 3, wrong.w = reinterpret_cast<const int8_t*>(8);
  refuses(wrong, "must lie on 16 bytes");
  wrong = huge;
  wrong.m = 0;
  gpu::w8a8(launcher, wrong);
  expect(launcher.launched.empty(), "no rows, no launch");

  const auto chosen = [](int64_t m, int64_t n, int64_t k, int sms, int capability) {
    const auto& tile = gpu::choose_w8a8(m, n, k, sms, capability);
    return std::to_string(tile.rows) + "x" + std::to_string(tile.columns) + "x" + std::to_string(tile.stages);
  };
  expect(chosen(1, 4096, 4096, 108, 80) == "16x32x6", "one row: " + chosen(1, 4096, 4096, 108, 80));
  expect(chosen(64, 4096, 4096, 108, 80) == "64x32x4", "64 rows: " + chosen(64, 4096, 4096, 108, 80));
  expect(chosen(2048, 4096, 4096, 108, 80) == "128x128x4", "A100: " + chosen(2048, 4096, 4096, 108, 80));
  expect(chosen(2048, 4096, 4096, 132, 90) == "128x128x4", "H100: " + chosen(2048, 4096, 4096, 132, 90));
  expect(chosen(8192, 4096, 4096, 84, 86) == "128x128x3", "100 KiB: " + chosen(8192, 4096, 4096, 84, 86));
  for (int capability : {80, 86, 89, 90})
    for (const auto& tile : gpu::kW8A8Tiles)
      expect(size_t(tile.shared_bytes()) <= most_shared_bytes(capability), "too much shared memory");
}

// Every access of an aligned shape is as cheap as can be, and rows that aren't there are not read.
void check_cost(const gpu::W8A8TileShape& tile) {
  Counters aligned, ragged;
  check({tile.rows, tile.columns, 256}, tile, {}, &aligned);
  for (const auto* costs : {&aligned.shared, &aligned.global})
    for (const auto& [name, cost] : *costs)
      expect(cost.cost == cost.ideal, std::string(tile.names[0]) + ": " + name + " costs " + std::to_string(cost.cost) +
                                          ", could " + std::to_string(cost.ideal));
  check({1, tile.columns, 256}, tile, {}, &ragged);
  const uint64_t read = ragged.global["cp.async.cg 16 from global"].cost * 32;
  expect(read == 256u * (1 + tile.columns), std::string(tile.names[0]) + " reads " + std::to_string(read) + " bytes");
}

void print_cost() {
  for (const auto& tile : gpu::kW8A8Tiles) {
    for (const gpu::DType type : {gpu::DType::f32, gpu::DType::f16}) {
      Counters counters;
      const Case c{tile.rows * 2, tile.columns * 2, 1024, type, gpu::Activation::none, true, true};
      check(c, tile, {}, &counters);
      print_counters(tile.names[static_cast<int>(type)],
                     std::to_string(c.m) + " " + std::to_string(c.n) + " " + std::to_string(c.k), counters);
    }
  }
}

void print_layouts() {
  for (int bias : {0, 1})
    for (int input_scale : {0, 1})
      for (int group : {0, 32, 64}) {
        const int64_t n = 37, k = group == 0 ? 77 : 192;
        const gpu::W8A8Layout l = gpu::w8a8_layout(n, k, {bias != 0, input_scale != 0, group});
        std::printf(
            "{\"given\": [%ld, %ld, %d, %d, %d], \"offsets\": [%ld, %ld, %ld, %ld, %ld, %ld], \"bytes\": %ld}\n", n, k,
            bias, input_scale, group, l.codes, l.scale, l.bias, l.input_scale, l.group_scale, l.zero, l.bytes);
      }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  return finish([&] {
    if (what == "counters") return print_cost();
    if (what == "layout") return print_layouts();
    check_launches();
    check_shapes(what == "grid", what == "quick");
    for (const auto& tile : gpu::kW8A8Tiles) check_cost(tile);
    for (int activation = 0; activation < 6; ++activation) {
      Case special{1, 16, 1, gpu::DType::f32, static_cast<gpu::Activation>(activation)};
      special.special = true;
      check(special, gpu::kW8A8Tiles[4], {});
    }
    if (what == "quick") return;
    for (const int fill : {-128, 127})  // sums of the largest size
      check({3, 5, 8192, gpu::DType::f32, gpu::Activation::none, false, false, fill}, gpu::kW8A8Tiles[3], {});
    // More tiles of rows than a group has.
    check({16 * 17 + 5, 70, 40, gpu::DType::f16}, gpu::kW8A8Tiles[4], {});
  });
}
