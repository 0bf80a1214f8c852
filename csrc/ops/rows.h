// The rows of an operator's input: where they lie, and how they are read, quantized and shared out.
#pragma once

#include <algorithm>
#include <vector>

#include "../cpu/kernels.h"
#include "tensor.h"

namespace kdnative {

constexpr int64_t kSmallWork = int64_t{1} << 20;  // multiply-adds below which a second thread costs more than it saves
constexpr int64_t kSmallCopy = kSmallWork / 8;    // the same of elements that are quantized or converted

// Rows of a floating tensor whose last dimension may be strided, or `rows` of them from row `first` on.
struct RowSource {
  const uint8_t* data;
  cpu::DType type;
  int64_t first, rows, k;
  int64_t column_stride;  // elements
  int64_t ndim;           // leading dimensions
  const int64_t* sizes;
  const int64_t* strides;
  bool uniform;  // rows are `row_stride` apart and columns are dense
  int64_t row_stride;
};

// Checks the input of an operator; errors start with the operator's name.
RowSource rows_of(const Tensor& x, const char* op);

inline int64_t element_size(cpu::DType type) { return type == cpu::DType::f32 ? 4 : 2; }

// Elements from x.data to a row.
int64_t row_offset(const RowSource& x, int64_t row);

template <typename T>
void gather(const T* source, int64_t stride, int64_t n, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = source[i * stride];
}

// f(first row, rows, data, row stride) over rows [begin, end): as many at once as lie evenly apart, or where columns
// are not dense, one by one from a small buffer that they are gathered into.
template <typename F>
void for_dense_rows(const RowSource& x, int64_t begin, int64_t end, const F& f) {
  const int64_t size = element_size(x.type);
  if (x.uniform) return f(begin, end - begin, x.data + row_offset(x, begin) * size, x.row_stride);
  if (x.column_stride == 1 || x.k == 1) {
    const int64_t run = x.sizes[x.ndim - 1];
    for (int64_t r = begin, next; r < end; r = next) {
      next = std::min(end, r + run - (x.first + r) % run);
      f(r, next - r, x.data + row_offset(x, r) * size, x.strides[x.ndim - 1]);
    }
    return;
  }
  thread_local std::vector<uint8_t> row;
  row.resize(static_cast<size_t>(x.k * size));
  for (int64_t r = begin; r < end; ++r) {
    const uint8_t* source = x.data + row_offset(x, r) * size;
    if (size == 4) {
      gather(reinterpret_cast<const uint32_t*>(source), x.column_stride, x.k, reinterpret_cast<uint32_t*>(row.data()));
    } else {
      gather(reinterpret_cast<const uint16_t*>(source), x.column_stride, x.k, reinterpret_cast<uint16_t*>(row.data()));
    }
    f(r, 1, static_cast<const uint8_t*>(row.data()), x.k);
  }
}

// q (rows ld_q bytes apart), scale and group_sum (may be nullptr) for rows [begin, end) of the source, times
// input_scale unless that is nullptr.
void quantize_range(const cpu::Kernels& kernels, const RowSource& x, const float* input_scale, int64_t begin,
                    int64_t end, int64_t k_pad, int8_t* q, int64_t ld_q, float* scale, int32_t* group_sum);

// Rows in at most `most` even parts that begin at multiples of `unit`.
struct RowParts {
  int64_t rows, step;

  RowParts(int64_t rows, int64_t most, int64_t unit)
      : rows(rows), step(std::max(((rows + most - 1) / most + unit - 1) / unit * unit, int64_t{1})) {}
  int64_t count() const { return (rows + step - 1) / step; }
  int64_t begin(int64_t part) const { return part * step; }
  int64_t end(int64_t part) const { return std::min(rows, (part + 1) * step); }
};

}  // namespace kdnative
