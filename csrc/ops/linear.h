// Splitting one quantized linear layer over threads.
#pragma once

#include "../cpu/kernels.h"
#include "../cpu/packed.h"

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

// q, scale and group_sum (may be nullptr) for rows [begin, end) of the source.
void quantize_range(const cpu::Kernels& kernels, const RowSource& x, int64_t begin, int64_t end, int64_t k_pad,
                    int8_t* q, float* scale, int32_t* group_sum);

}  // namespace kdnative
