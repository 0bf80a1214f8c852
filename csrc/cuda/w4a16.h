// Chooses how a product of float activations and 4-bit or 8-bit weights is computed, and launches it (w4a16.cu).
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "kinds.h"
#include "launcher.h"
#include "quantize.h"
#include "tile_time.h"
#include "w4a16_layout.h"

namespace gpu {

struct W4A16 {
  const void* x;  // [m, k], row after row
  DType type;     // of x, residual and out. Factors are fp16 for fp16, else bf16
  const uint8_t* packed;
  W4A16Form form;
  const void* residual;  // [m, n], added last; or nullptr
  void* out;             // [m, n]
  Activation activation;
  int64_t m, n, k;
  void* scratch;       // W4A16Plan::scratch_bytes, on 16 bytes
  uint32_t* counters;  // W4A16Plan::counters of them, all 0; they are 0 again afterwards
};

// A tile as it is compiled in w4a16.cu.
struct W4A16Tile {
  const char* names[2][2];  // of its kernels: 4 bits or 8, fp16 or bf16
  int rows, stages, threads;
  int resident;  // blocks that a multiprocessor holds by their registers
  constexpr int shared_bytes(int bits) const {
    return stages * (rows * 128 + 8 * unit_bytes(bits) + (bits == 4 ? 2 * 128 * 5 : 0));
  }
};
constexpr int kW4A16Columns = 128, kW4A16Step = 64;  // outputs of a tile, inputs of a step

inline constexpr W4A16Tile kW4A16Tiles[] = {
    {{{"w4a16_gemm_16_f16", "w4a16_gemm_16_bf16"}, {"w8a16_gemm_16_f16", "w8a16_gemm_16_bf16"}}, 16, 4, 128, 3},
    {{{"w4a16_gemm_64_f16", "w4a16_gemm_64_bf16"}, {"w8a16_gemm_64_f16", "w8a16_gemm_64_bf16"}}, 64, 3, 128, 2},
    {{{"w4a16_gemm_128_f16", "w4a16_gemm_128_bf16"}, {"w8a16_gemm_128_f16", "w8a16_gemm_128_bf16"}}, 128, 4, 256, 1},
};

struct W4A16Plan {
  enum Way { gemv, gemm, dequantize } way;
  const W4A16Tile* tile;  // of gemm
  int splits;             // blocks that share the inputs of a tile
  int each;               // units (gemv) or steps (gemm) of such a block
  int64_t rows_bytes;     // x as factors, of gemm; 0: it is read as it is
  int64_t scratch_bytes, counters;
};

constexpr int64_t kW4A16GemvRows = 8;

// Rows from which a plain product of the dequantized weights is faster. A model, not measured: dequantizing moves 2.6
// bytes a weight, and mma.sync reaches half of what cuBLAS reaches on Hopper, and 85 % before. With the rates of H100
// and A100, both ways take the same time at 420 and 1,250 rows.
inline int64_t w4a16_dequantize_rows(int capability) { return capability >= 90 ? 512 : 2048; }

inline bool w4a16_needs_rows(const W4A16& a) {
  return a.type == DType::f32 || a.form.input_scales || a.k % 8 != 0 || !lies_on(a.x, 16);
}

inline W4A16Plan plan_gemv(const W4A16& a, int sms) {
  // As few blocks as fill the device, two on each multiprocessor: a block costs its start, x, and its sums. x of many
  // rows doesn't fit into shared memory for more than 2,048 inputs.
  const int64_t strips = ceil_div(a.n, kUnit), units = ceil_div(a.k, kUnit);
  int each = a.m <= 2 ? 128 : 64;
  while (each > 32 && 4 * strips * ceil_div(units, each) < 6 * sms) each /= 2;
  W4A16Plan p{W4A16Plan::gemv, nullptr, static_cast<int>(ceil_div(units, each)), each, 0, 0, 0};
  if (p.splits > 1) p.scratch_bytes = strips * p.splits * 256 * 4, p.counters = strips;
  return p;
}

inline W4A16Plan plan_gemm(const W4A16& a, const W4A16Tile& tile, int sms, int capability) {
  const int64_t tiles = ceil_div(a.m, tile.rows) * ceil_div(a.n, kW4A16Columns), steps = ceil_div(a.k, kW4A16Step);
  // Blocks share inputs until the device is full, while each has four steps and sums move no more bytes than weights.
  const int resident = std::min(tile.resident, shared_allows(tile.shared_bytes(a.form.bits), capability));
  const int64_t room = int64_t{sms} * resident / std::max<int64_t>(tiles, 1);
  const int64_t most = std::min(steps / 4, a.k * a.form.bits / (64 * tile.rows));
  const int64_t wanted = std::max<int64_t>(1, std::min(room, most)), each = ceil_div(steps, wanted);
  W4A16Plan p{W4A16Plan::gemm, &tile, static_cast<int>(ceil_div(steps, each)), static_cast<int>(each), 0, 0, 0};
  if (w4a16_needs_rows(a)) p.rows_bytes = ceil_div(a.m * ceil_div(a.k, kUnit) * kUnit * 2, 256) * 256;
  p.scratch_bytes = p.rows_bytes;
  if (p.splits > 1) {
    p.scratch_bytes += tiles * p.splits * tile.rows * kW4A16Columns * 4;
    p.counters = tiles;
  }
  return p;
}

// Pointers besides x need not be set yet. May say dequantize, which w4a16() doesn't do: w4a16_dequantize and a product
// of torch's then do; with `always` it says so never.
inline W4A16Plan choose_w4a16(const W4A16& a, int sms, int capability, bool always = false) {
  if (a.m <= kW4A16GemvRows) return plan_gemv(a, sms);
  if (!always && a.m >= w4a16_dequantize_rows(capability))
    return {W4A16Plan::dequantize, nullptr, 1, 0, 0, a.n * a.k * 2, 0};
  if (a.m <= 16) return plan_gemm(a, kW4A16Tiles[0], sms, capability);
  // The large tile reads less, and the small one leaves fewer multiprocessors idle.
  const bool large = ceil_div(a.m, 128) * ceil_div(a.n, kW4A16Columns) >= sms;
  return plan_gemm(a, kW4A16Tiles[large && a.m > 64 ? 2 : 1], sms, capability);
}

// Throws std::invalid_argument for a weight that no kernel reads.
inline int w4a16_group_shift(const char* op, const W4A16Form& form, int64_t n, int64_t k) {
  const std::string weight = std::string(op) + ": a weight [" + std::to_string(n) + ", " + std::to_string(k) + "] of " +
                             std::to_string(form.bits) + " bits, groups of " + std::to_string(form.group) + ": ";
  if (n < 1 || k < 1 || n > kMostRows || k > kMostRows)
    throw std::invalid_argument(weight + "1 to " + std::to_string(kMostRows) + " outputs and inputs are allowed");
  if (form.bits == 8 && form.group == 0 && !form.zeros) return 30;  // one group, however many units
  const bool group = form.group == 32 || form.group == 64 || form.group == 128;
  if (form.bits != 4 || !group || k % form.group != 0)
    throw std::invalid_argument(
        weight + "4 bits in groups of 32, 64 or 128 that divide the inputs are allowed, or 8 bits without groups and " +
        "zero points; 2 bits have no kernel for float activations");
  return form.group == 32 ? 0 : form.group == 64 ? 1 : 2;
}

inline void w4a16(Launcher& launcher, const W4A16& a, const W4A16Plan& plan) {
  const int shift = w4a16_group_shift("w4a16", a.form, a.n, a.k);
  const std::string shapes = "w4a16: x [" + std::to_string(a.m) + ", " + std::to_string(a.k) + "], weight [" +
                             std::to_string(a.n) + ", " + std::to_string(a.k) + "]: ";
  if (a.m < 0 || a.m > kMostRows)
    throw std::invalid_argument(shapes + "at most " + std::to_string(kMostRows) + " rows; give fewer at a time");
  if (plan.way == W4A16Plan::dequantize)
    throw std::invalid_argument(shapes + "the plan is to dequantize; call w4a16_dequantize and a plain product");
  if (!lies_on(a.packed, 16) || !lies_on(a.scratch, 16))
    throw std::invalid_argument(shapes + "the packed weight and scratch memory must lie on 16 bytes");
  if (a.m == 0) return;
  const W4A16Layout w = w4a16_layout(a.n, a.k, a.form);
  const auto floats = [&](int64_t at) { return at < 0 ? nullptr : reinterpret_cast<const float*>(a.packed + at); };
  const uint8_t* codes = a.packed + w.codes;
  const uint8_t* zeros = w.zero < 0 ? nullptr : a.packed + w.zero;
  const int eight = a.form.bits == 8, bf16 = a.type != DType::f16, units = static_cast<int>(ceil_div(a.k, kUnit));
  const int m = static_cast<int>(a.m), n = static_cast<int>(a.n), k = static_cast<int>(a.k);
  const int type = static_cast<int>(a.type), activation = static_cast<int>(a.activation);
  const int paired = a.k % 2 == 0 && lies_on(a.x, a.type == DType::f32 ? 8 : 4);
  // Rows of out and residual can be read four elements at a time.
  const int whole = reads_by_four(a.n, a.type, {a.out, a.residual});
  auto* partial = reinterpret_cast<float*>(static_cast<uint8_t*>(a.scratch) + plan.rows_bytes);

  if (plan.way == W4A16Plan::gemv) {
    if (a.m > kW4A16GemvRows)
      throw std::invalid_argument(shapes + "the plan is for at most 8 rows; choose one for this shape");
    static constexpr const char* kNames[2][2] = {{"w4a16_gemv_f16", "w4a16_gemv_bf16"},
                                                 {"w8a16_gemv_f16", "w8a16_gemv_bf16"}};
    Kernel kernel{"w4a16", kNames[eight][bf16]};
    kernel.grid_x = static_cast<uint32_t>(ceil_div(n, kUnit));
    kernel.grid_y = static_cast<uint32_t>(plan.splits);
    kernel.threads = 256;
    const int count = std::min(plan.each, units), groups = eight ? 0 : ((count - 1) >> shift) + 1;
    const int staged = m * (count * 64 + 16) + groups * kUnit * 5;
    kernel.shared_bytes = static_cast<uint32_t>(std::max(staged, 8 * 8 * kUnit * 4 + 16));
    launch(launcher, kernel, a.x, codes, floats(w.scale), zeros, floats(w.input_scale), floats(w.bias), a.residual,
           a.out, partial, a.counters, type, paired, whole, activation, m, n, k, shift, plan.each);
    return;
  }
  const void* x = a.x;
  int inputs = k;
  if (plan.rows_bytes > 0) {
    x = a.scratch;
    inputs = units * kUnit;
    Kernel kernel{"w4a16", bf16 ? "w4a16_rows_bf16" : "w4a16_rows_f16"};
    kernel.grid_x = static_cast<uint32_t>(m);
    kernel.threads = 256;
    launch(launcher, kernel, a.x, floats(w.input_scale), a.scratch, type, paired, k, inputs);
  }
  Kernel kernel{"w4a16", plan.tile->names[eight][bf16]};
  kernel.grid_x = static_cast<uint32_t>(ceil_div(n, kW4A16Columns));
  kernel.grid_y = static_cast<uint32_t>(ceil_div(m, plan.tile->rows));
  kernel.grid_z = static_cast<uint32_t>(plan.splits);
  kernel.threads = static_cast<uint32_t>(plan.tile->threads);
  kernel.shared_bytes = static_cast<uint32_t>(plan.tile->shared_bytes(a.form.bits));
  launch(launcher, kernel, x, codes, floats(w.scale), zeros, floats(w.bias), a.residual, a.out, partial, a.counters,
         type, whole, activation, m, n, inputs, shift, plan.each);
}

// out [n, k], of fp16 or bf16: the weight that the layer multiplies x itself by, so with its input scales. Weights that
// don't fit into fp16 become infinite.
inline void w4a16_dequantize(Launcher& launcher, const uint8_t* packed, const W4A16Form& form, int64_t n, int64_t k,
                             DType type, void* out) {
  const int shift = w4a16_group_shift("w4a16_dequantize", form, n, k);
  if (type == DType::f32)
    throw std::invalid_argument("w4a16_dequantize: fp32 is no type of factors; fp16 and bf16 are allowed");
  if (!lies_on(packed, 16) || !lies_on(out, 16))
    throw std::invalid_argument("w4a16_dequantize: the packed weight and out must lie on 16 bytes");
  const W4A16Layout w = w4a16_layout(n, k, form);
  const auto floats = [&](int64_t at) { return at < 0 ? nullptr : reinterpret_cast<const float*>(packed + at); };
  static constexpr const char* kNames[2][2] = {{"w4a16_dequantize_f16", "w4a16_dequantize_bf16"},
                                               {"w8a16_dequantize_f16", "w8a16_dequantize_bf16"}};
  Kernel kernel{"w4a16", kNames[form.bits == 8][type == DType::bf16]};
  const int64_t blocks = ceil_div(ceil_div(n, kUnit) * ceil_div(k, kUnit), 8);
  if (blocks > 0x7fffffff)
    throw std::invalid_argument("w4a16_dequantize: a weight [" + std::to_string(n) + ", " + std::to_string(k) +
                                "] has more parts than a grid has blocks");
  kernel.grid_x = static_cast<uint32_t>(blocks);
  kernel.threads = 256;
  kernel.shared_bytes = 8 * kUnit * kUnit * 2;
  launch(launcher, kernel, packed + w.codes, floats(w.scale), w.zero < 0 ? nullptr : packed + w.zero,
         floats(w.input_scale), out, static_cast<int>(n), static_cast<int>(k), shift);
}

}  // namespace gpu
