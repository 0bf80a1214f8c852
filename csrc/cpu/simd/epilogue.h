// The last steps of a GEMM over Vec: scales, bias, activation, residual, store. Include it after one vec_*.h.
//
// The kernels leave a block of sums in memory and call these once a block: inlined into every unrolled register tile,
// the activations alone would outgrow the instruction cache.
#pragma once

#include "../kernels.h"
#include "io.h"
#include "math.h"

namespace kdnative::cpu {
namespace {

// Columns [c, c + Vec::width) of row r; only those below w.n are written.
inline void finish(const PackedLinear& w, const Epilogue& e, int64_t r, int64_t c, Vec y) {
  const int64_t n = w.n - c;
  if (n <= 0) return;
  if (w.bias != nullptr) y = y + Vec::load(w.bias + c);
  y = activate(y, e.activation);
  const float* residual = e.residual == nullptr ? nullptr : e.residual + r * e.ld_residual + c;
  if (n >= Vec::width) {
    if (residual != nullptr) y = y + Vec::load(residual);
    store_as(e.out_type, e.out, r * e.ld_out + c, y);
  } else {
    if (residual != nullptr) y = y + Vec::load(residual, n);
    store_as(e.out_type, e.out, r * e.ld_out + c, y, n);
  }
}

// int32 sums of `rows` x `columns` outputs from (r, c) on; row i starts at dot + i * ld.
[[gnu::noinline]] inline void write_sums(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r,
                                         int64_t rows, int64_t c, int64_t columns, const int32_t* dot, int64_t ld) {
  for (int64_t i = 0; i < rows; ++i) {
    const Vec scale_a = Vec::set1(a.scale[r + i]);
    for (int64_t j = 0; j < columns; j += Vec::width) {
      finish(w, e, r + i, c + j, Vec::load_s32(dot + i * ld + j) * (scale_a * Vec::load(w.scale + c + j)));
    }
  }
}

// The same for sums that hold the scales of the weights already.
[[gnu::noinline]] inline void write_scaled(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r,
                                           int64_t rows, int64_t c, int64_t columns, const float* sum, int64_t ld) {
  for (int64_t i = 0; i < rows; ++i) {
    const Vec scale_a = Vec::set1(a.scale[r + i]);
    for (int64_t j = 0; j < columns; j += Vec::width) {
      finish(w, e, r + i, c + j, Vec::load(sum + i * ld + j) * scale_a);
    }
  }
}

}  // namespace
}  // namespace kdnative::cpu
