// Splitting one quantized linear layer over threads.
#pragma once

#include <algorithm>

#include "../cpu/kernels.h"
#include "../cpu/packed.h"
#include "tensor.h"

namespace kdnative {

// Rows of a floating tensor whose last dimension may be strided. Row r starts at data + offset(r) elements.
struct RowSource {
  const uint8_t* data;
  cpu::DType type;
  int64_t rows, k;
  int64_t column_stride;  // elements
  int64_t ndim;           // leading dimensions
  const int64_t* sizes;
  const int64_t* strides;
  bool uniform;  // rows are `row_stride` apart and columns are dense
  int64_t row_stride;
};

// Checks the input of an operator; errors start with the operator's name.
RowSource rows_of(const Tensor& x, const char* op);

// q (rows ld_q bytes apart), scale and group_sum (may be nullptr) for rows [begin, end) of the source.
void quantize_range(const cpu::Kernels& kernels, const RowSource& x, int64_t begin, int64_t end, int64_t k_pad,
                    int8_t* q, int64_t ld_q, float* scale, int32_t* group_sum);

// The buffer of a packed weight: uint8, dense, on the CPU and aligned. `builder` is what makes one.
void require_packed(const Tensor& packed, const char* op, const char* builder);

// That the input and the other arguments of a linear operator belong to this weight.
void require_fitting(const Tensor& x, const RowSource& rows, const cpu::PackedLinear& w, const char* op,
                     int64_t out_features, int64_t activation);

// [..., N] for rows [..., K], in the dtype of x.
Tensor empty_output(const Tensor& x, const RowSource& rows, int64_t n);

constexpr int64_t kSmallWork = int64_t{1} << 20;  // multiply-adds below which a second thread costs more than it saves

// Shares one product out to threads. prepare(begin, end) readies these rows; multiply(range, chunk) may run once its
// rows are ready, at the same time as other chunks below thread_count(). Ranges of rows begin at multiples of
// `row_unit`; below `smallest` multiply-adds one thread does it all.
template <typename Prepare, typename Multiply>
void share_out(int64_t rows, const cpu::PackedLinear& w, int64_t row_unit, int64_t smallest, const Prepare& prepare,
               const Multiply& multiply) {
  const int64_t tiles = w.n_pad / cpu::kTileN;
  const int64_t threads = rows * w.n_pad * w.k_pad < smallest ? 1 : thread_count();
  if (threads == 1) {
    prepare(0, rows);
    multiply(cpu::GemmRange{0, rows, 0, tiles}, 0);
  } else if (rows >= 64 * threads) {  // enough rows: each thread prepares and multiplies its own
    const int64_t chunks = std::min(threads, rows / row_unit);
    const int64_t step = ((rows + chunks - 1) / chunks + row_unit - 1) / row_unit * row_unit;
    parallel((rows + step - 1) / step, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const int64_t last = std::min(rows, (c + 1) * step);
        prepare(c * step, last);
        multiply(cpu::GemmRange{c * step, last, 0, tiles}, c);
      }
    });
  } else {  // few rows: share out the columns
    prepare(0, rows);
    const int64_t chunks = std::min(threads, tiles);
    parallel(chunks, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        multiply(cpu::GemmRange{0, rows, tiles * c / chunks, tiles * (c + 1) / chunks}, c);
      }
    });
  }
}

}  // namespace kdnative
