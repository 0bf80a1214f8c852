// The last steps of a GEMM over Vec: scales, bias, activation, residual, store. Include it after one vec_*.h.
//
// The kernels leave a block of sums in memory and call these once a block: inlined into every unrolled register tile,
// the activations alone would outgrow the instruction cache.
#pragma once

#include "../kernels.h"
#include "blocks.h"
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

// Fetches the lines of the output that a block will write into L2, long before it does: rows lie far apart, so no
// hardware prefetcher sees them coming, and stores that miss leave the core one after the other.
inline void fetch_output(const Epilogue& e, int64_t r, int64_t rows, int64_t c, int64_t columns) {
  const int64_t size = e.out_type == DType::f32 ? 4 : 2;
  for (int64_t i = 0; i < rows; ++i) {
    const char* row = static_cast<const char*>(e.out) + ((r + i) * e.ld_out + c) * size;
    for (int64_t at = 0; at < columns * size; at += 64) __builtin_prefetch(row + at, 1, 2);
  }
}

// Any block; ragged ones have no other.
template <typename Values>
[[gnu::noinline]] inline void write_any(const PackedLinear& w, const Epilogue& e, int64_t r, int64_t rows, int64_t c,
                                        int64_t columns, const Values& values) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; j += Vec::width) finish(w, e, r + i, c + j, values(i, j));
}

// Whole columns of any type, with or without an activation.
template <typename Values>
[[gnu::noinline]] inline void write_columns(const PackedLinear& w, const Epilogue& e, int64_t r, int64_t rows,
                                            int64_t c, int64_t columns, const Values& values) {
  const int64_t out = r * e.ld_out + c;
  const float* residual = e.residual == nullptr ? nullptr : e.residual + r * e.ld_residual + c;
  with_activation(e.activation, [&](auto activation) {
    for (int64_t j = 0; j < columns; j += Vec::width) {
      const Vec bias = w.bias == nullptr ? Vec::set1(-0.0f) : Vec::load(w.bias + c + j);  // adding -0 changes nothing
      for_row_blocks<kAbreast>(0, rows, [&](int64_t i, auto abreast) {
        Vec y[abreast.count];
        for (int64_t s = 0; s < abreast.count; ++s) y[s] = values(i + s, j) + bias;
        activation.apply(y);
        if (residual != nullptr) {
          for (int64_t s = 0; s < abreast.count; ++s) y[s] = y[s] + Vec::load(residual + (i + s) * e.ld_residual + j);
        }
        for (int64_t s = 0; s < abreast.count; ++s) store_as(e.out_type, e.out, out + (i + s) * e.ld_out + j, y[s]);
      });
    }
  });
}

// Whether write_plain will do: fp32 without activation, whole columns.
inline bool is_plain(const PackedLinear& w, const Epilogue& e, int64_t c, int64_t columns) {
  return e.out_type == DType::f32 && e.activation == Activation::none && c + columns <= w.n;
}

// What most layers need, in a loop of its own: the choices of the others would cost more than its arithmetic. Values
// that are still in registers can stay there.
template <typename Values>
[[gnu::always_inline]] inline void write_plain(const PackedLinear& w, const Epilogue& e, int64_t r, int64_t rows,
                                               int64_t c, int64_t columns, const Values& values) {
  float* out = static_cast<float*>(e.out) + r * e.ld_out + c;
  const float* residual = e.residual == nullptr ? nullptr : e.residual + r * e.ld_residual + c;
  for (int64_t j = 0; j < columns; j += Vec::width) {
    const Vec bias = w.bias == nullptr ? Vec::set1(-0.0f) : Vec::load(w.bias + c + j);  // adding -0 changes nothing
    for (int64_t i = 0; i < rows; ++i) {
      Vec y = values(i, j) + bias;
      if (residual != nullptr) y = y + Vec::load(residual + i * e.ld_residual + j);
      y.store(out + i * e.ld_out + j);
    }
  }
}

// The block's values(i, j), row r + i and columns c + j .. c + j + Vec::width, to the output.
template <typename Values>
inline void write_block(const PackedLinear& w, const Epilogue& e, int64_t r, int64_t rows, int64_t c, int64_t columns,
                        const Values& values) {
  if (is_plain(w, e, c, columns)) return write_plain(w, e, r, rows, c, columns, values);
  if (c + columns > w.n) return write_any(w, e, r, rows, c, columns, values);
  write_columns(w, e, r, rows, c, columns, values);
}

// int32 sums of `rows` x `columns` outputs from (r, c) on; row i starts at dot + i * ld.
[[gnu::noinline]] inline void write_sums(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r,
                                         int64_t rows, int64_t c, int64_t columns, const int32_t* dot, int64_t ld) {
  const float* scale = w.scale + c;
  write_block(w, e, r, rows, c, columns, [&](int64_t i, int64_t j) {
    return Vec::load_s32(dot + i * ld + j) * (Vec::set1(a.scale[r + i]) * Vec::load(scale + j));
  });
}

// The same for sums that hold the scales of the weights already.
[[gnu::noinline]] inline void write_scaled(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r,
                                           int64_t rows, int64_t c, int64_t columns, const float* sum, int64_t ld) {
  write_block(w, e, r, rows, c, columns,
              [&](int64_t i, int64_t j) { return Vec::load(sum + i * ld + j) * Vec::set1(a.scale[r + i]); });
}

// The same for sums that are complete.
[[gnu::noinline]] inline void write_floats(const PackedLinear& w, const Epilogue& e, int64_t r, int64_t rows, int64_t c,
                                           int64_t columns, const float* sum, int64_t ld) {
  write_block(w, e, r, rows, c, columns, [&](int64_t i, int64_t j) { return Vec::load(sum + i * ld + j); });
}

}  // namespace
}  // namespace kdnative::cpu
