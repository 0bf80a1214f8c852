// Launches the kernels of quantize.cu: rows of activations to int8, with LayerNorm or RMSNorm in front if asked for.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "kinds.h"
#include "launcher.h"

namespace gpu {

struct Quantize {
  const void* x;  // [rows, k], row after row
  DType type;
  const float* input_scale;  // [k], on 16 bytes, or nullptr
  int64_t rows, k;
  int64_t k_pad;  // bytes from one row of q to the next, a multiple of 4; columns from k on become 0
  int8_t* q;      // [rows, k_pad], on 4 bytes
  float* scale;   // [rows]
};

// h = x + added, rounded to the type of x; (h - mean) / sqrt(variance + eps) * gamma + beta is what is quantized. Each
// mean is over the row, in fp32; the variance is that of h - mean, whose square is summed in a second pass.
struct Norm {
  const void* added;   // [rows, k] of x's type, or nullptr: h is x
  void* sum;           // [rows, k] of x's type, where h goes, apart from all inputs; or nullptr
  const float* gamma;  // [k], on 16 bytes
  const float* beta;   // [k], on 16 bytes, or nullptr
  float eps;
  bool centered;  // false: RMSNorm, the mean is taken as 0
};

constexpr int64_t kMostRows = 0x7fffff00;  // so that a row's number is an int, padded to any tile
constexpr int64_t kMostColumns = 1 << 30;  // so that a column's number is one, with a whole block's columns behind
constexpr int64_t kWarpColumns = 1024;     // longer rows get a block
inline bool lies_on(const void* at, int64_t bytes) { return reinterpret_cast<uintptr_t>(at) % bytes == 0; }

// Whether rows of k elements at these addresses can be read four elements at a time.
inline bool reads_by_four(int64_t k, DType type, std::initializer_list<const void*> tensors) {
  for (const void* at : tensors)
    if (!lies_on(at, type == DType::f32 ? 16 : 8)) return false;
  return k % 4 == 0;
}

inline Kernel quantize_kernel(const Quantize& a, bool normed) {
  static constexpr const char* kNames[2][2][3] = {
      {{"quantize_warp_f32", "quantize_warp_bf16", "quantize_warp_f16"},
       {"quantize_block_f32", "quantize_block_bf16", "quantize_block_f16"}},
      {{"norm_quantize_warp_f32", "norm_quantize_warp_bf16", "norm_quantize_warp_f16"},
       {"norm_quantize_block_f32", "norm_quantize_block_bf16", "norm_quantize_block_f16"}},
  };
  if (a.rows > kMostRows || a.k > kMostColumns)
    throw std::invalid_argument("quantize: x is [" + std::to_string(a.rows) + ", " + std::to_string(a.k) +
                                "], at most " + std::to_string(kMostRows) + " rows of at most " +
                                std::to_string(kMostColumns) + " columns are allowed; give fewer at a time");
  if (a.k < 1 || a.k_pad < a.k || a.k_pad % 4 != 0)
    throw std::invalid_argument("quantize: rows of " + std::to_string(a.k) + " columns can't be padded to " +
                                std::to_string(a.k_pad) + "; a multiple of 4 that holds them is needed");
  const bool block = a.k > kWarpColumns;
  Kernel kernel{"quantize", kNames[normed][block][static_cast<int>(a.type)]};
  kernel.grid_x = static_cast<uint32_t>(block ? a.rows : (a.rows + 7) / 8);
  kernel.threads = 256;
  kernel.shared_bytes = block ? 96 : 0;
  return kernel;
}

inline void check_lies_on_16(std::initializer_list<const float*> vectors) {
  for (const float* at : vectors)
    if (!lies_on(at, 16))
      throw std::invalid_argument("quantize: input scales, gamma and beta must lie on 16 bytes; copy them");
}

inline void quantize(Launcher& launcher, const Quantize& a) {
  check_lies_on_16({a.input_scale});
  const int whole = reads_by_four(a.k, a.type, {a.x});
  launch(launcher, quantize_kernel(a, false), a.x, a.input_scale, a.q, a.scale, static_cast<int>(a.rows),
         static_cast<int>(a.k), static_cast<int>(a.k_pad), whole);
}

inline void norm_quantize(Launcher& launcher, const Norm& norm, const Quantize& a) {
  check_lies_on_16({a.input_scale, norm.gamma, norm.beta});
  const int whole = reads_by_four(a.k, a.type, {a.x, norm.added, norm.sum});
  launch(launcher, quantize_kernel(a, true), a.x, norm.added, norm.sum, norm.gamma, norm.beta, norm.eps,
         static_cast<int>(norm.centered), a.input_scale, a.q, a.scale, static_cast<int>(a.rows), static_cast<int>(a.k),
         static_cast<int>(a.k_pad), whole);
}

}  // namespace gpu
