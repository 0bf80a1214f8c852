// What follows an integer product, with the bits of the CPU's kernels:
// y = activation(acc * (scale_a * scale_w) + bias) + residual, each step rounded in fp32.
#pragma once
#include "activation.cuh"
#include "element.cuh"

namespace gpu {

// Rows of the output, [m, n], row after row. T: float, Half or Bf16, of the residual too.
template <typename T>
struct Epilogue {
  const float* scale_a;  // [m]
  const float* scale_w;  // [n]
  const float* bias;     // [n], or nullptr
  const T* residual;     // [m, n], or nullptr
  T* out;
  int m, n;
  Activation activation;
  bool whole;  // rows of out and residual start on four elements, and n is a multiple of four

  // Elements [column, column + 4) of a row; those from n on are left out. `column` is a multiple of 4.
  GPU_FN void store(int row, int column, const int32_t (&sums)[4]) const {
    if (row >= m || column >= n) return;
    const int count = whole || n - column > 4 ? 4 : n - column;
    const float scale = load_global(scale_a + row);
    float scales[4], y[4];
    load4(scale_w + column, count, true, scales);
#pragma unroll
    for (int i = 0; i < 4; ++i) y[i] = mul_rn(to_float(sums[i]), mul_rn(scale, scales[i]));
    if (bias != nullptr) {
      float biases[4];
      load4(bias + column, count, true, biases);
#pragma unroll
      for (int i = 0; i < 4; ++i) y[i] = add_rn(y[i], biases[i]);
    }
    activate(y, activation);
    const int64_t at = static_cast<int64_t>(row) * n + column;
    if (residual != nullptr) {
      float added[4];
      load4(residual + at, count, whole, added);
#pragma unroll
      for (int i = 0; i < 4; ++i) y[i] = add_rn(y[i], added[i]);
    }
    store4(out + at, count, whole, y);
  }
};

}  // namespace gpu
