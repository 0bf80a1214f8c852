// Dynamic per-token quantization over Vec. Include it after one vec_*.h.
#pragma once

#include "../kernels.h"
#include "io.h"

namespace kdnative::cpu {
namespace {

constexpr int64_t kSumColumns = 32;  // columns of one group_sum

// Largest magnitude of a row; NaN when the row holds NaN or infinity.
template <DType type>
inline float row_amax(const void* x, int64_t first, int64_t k) {
  constexpr int kChains = 4;  // independent, to hide the latency of max and fma
  Vec largest[kChains], finite[kChains];
  for (int j = 0; j < kChains; ++j) largest[j] = finite[j] = Vec::zero();
  const auto add = [&](int j, Vec v) {
    largest[j] = max(largest[j], abs(v));
    finite[j] = fma(v, Vec::zero(), finite[j]);  // 0 as long as every value is finite
  };
  int64_t i = 0;
  for (; i + kChains * Vec::width <= k; i += kChains * Vec::width) {
    for (int j = 0; j < kChains; ++j) add(j, load_as<type>(x, first + i + j * Vec::width));
  }
  for (; i < k; i += Vec::width) add(0, load_as<type>(x, first + i, k - i));
  for (int j = 1; j < kChains; ++j) {
    largest[0] = max(largest[0], largest[j]);
    finite[0] = finite[0] + finite[j];
  }
  const float zero = reduce_add(finite[0]);
  return zero == 0.0f ? reduce_max(largest[0]) : zero;
}

// q = rint(x * inverse) for one row of k_pad columns; group_sum may be nullptr.
template <DType type>
inline void quantize_row(const void* x, int64_t first, int64_t k, int64_t k_pad, float inverse, int8_t* q,
                         int32_t* group_sum) {
  const Vec factor = Vec::set1(inverse);
  for (int64_t i = 0; i < k_pad; i += kSumColumns) {
    Vec sum = Vec::zero();  // at most 32 * 127: exact in fp32
    for (int64_t j = i; j < i + kSumColumns; j += Vec::width) {
      const Vec v = j + Vec::width <= k ? load_as<type>(x, first + j) : load_as<type>(x, first + j, k - j);
      const Vec rounded = round(v * factor);
      rounded.store_s8(q + j);
      sum = sum + rounded;
    }
    if (group_sum != nullptr) group_sum[i / kSumColumns] = static_cast<int32_t>(reduce_add(sum));
  }
}

inline void zero_row(int64_t k_pad, int8_t* q, int32_t* group_sum) {
  for (int64_t i = 0; i < k_pad; i += Vec::width) Vec::zero().store_s8(q + i);
  if (group_sum == nullptr) return;
  for (int64_t g = 0; g < k_pad / kSumColumns; ++g) group_sum[g] = 0;
}

template <DType type>
inline void quantize_typed(const void* x, int64_t ld_x, int64_t rows, int64_t k, int64_t k_pad, int8_t* q, float* scale,
                           int32_t* group_sum) {
  for (int64_t r = 0; r < rows; ++r) {
    const float amax = row_amax<type>(x, r * ld_x, k);
    scale[r] = amax / 127.0f;
    int8_t* q_row = q + r * k_pad;
    int32_t* sums = group_sum == nullptr ? nullptr : group_sum + r * (k_pad / kSumColumns);
    if (amax >= 1e-30f) {
      quantize_row<type>(x, r * ld_x, k, k_pad, 127.0f / amax, q_row, sums);
    } else {  // also NaN
      zero_row(k_pad, q_row, sums);
    }
  }
}

inline void quantize_rows_generic(const void* x, DType type, int64_t ld_x, int64_t rows, int64_t k, int64_t k_pad,
                                  int8_t* q, float* scale, int32_t* group_sum) {
  switch (type) {
    case DType::f32:
      return quantize_typed<DType::f32>(x, ld_x, rows, k, k_pad, q, scale, group_sum);
    case DType::bf16:
      return quantize_typed<DType::bf16>(x, ld_x, rows, k, k_pad, q, scale, group_sum);
    case DType::f16:
      return quantize_typed<DType::f16>(x, ld_x, rows, k, k_pad, q, scale, group_sum);
  }
}

}  // namespace
}  // namespace kdnative::cpu
