#include "rows.h"

namespace kdnative {

int64_t row_offset(const RowSource& x, int64_t row) {
  row += x.first;
  if (x.uniform) return row * x.row_stride;
  int64_t offset = 0;
  for (int64_t d = x.ndim - 1; d >= 0; --d) {
    offset += row % x.sizes[d] * x.strides[d];
    row /= x.sizes[d];
  }
  return offset;
}

RowSource rows_of(const Tensor& x, const char* op) {
  const int64_t ndim = x.dim();
  if (ndim < 1) fail(std::string(op) + ": the input must have at least one dimension (got a scalar)");
  if (ndim > Tensor::kMaxDims)
    fail(std::string(op) + ": the input has more than 16 dimensions; reshape it to [rows, features]");
  RowSource s{};
  s.type = float_type(x, op, "the input");
  s.data = static_cast<const uint8_t*>(x.data());
  s.sizes = x.sizes();
  s.strides = x.strides();
  s.ndim = ndim - 1;
  s.k = s.sizes[s.ndim];
  s.column_stride = s.strides[s.ndim];
  s.rows = 1;
  bool too_many = false;  // which only a tensor without numbers can have
  for (int64_t d = 0; d < s.ndim; ++d) too_many |= __builtin_mul_overflow(s.rows, s.sizes[d], &s.rows);
  if (too_many)
    fail(std::string(op) + ": the input has shape " + shape_text(x) + ", which is more rows than 64 bits count");
  s.row_stride = s.k;
  if (s.rows == 0 || s.k == 0) {  // strides without numbers may be any
    s.uniform = true;
    return s;
  }
  // Leading dimensions fold into one stride when each is the next one's size times its stride.
  s.uniform = s.column_stride == 1 || s.k == 1;
  int64_t expected = -1;
  for (int64_t d = s.ndim - 1; d >= 0; --d) {
    if (s.sizes[d] == 1) continue;
    if (expected < 0) {
      s.row_stride = s.strides[d];
    } else if (s.strides[d] != expected) {
      s.uniform = false;
    }
    expected = s.strides[d] * s.sizes[d];
  }
  return s;
}

void quantize_range(const cpu::Kernels& kernels, const RowSource& x, const float* input_scale, int64_t begin,
                    int64_t end, int64_t k_pad, int8_t* q, int64_t ld_q, float* scale, int32_t* group_sum) {
  const int64_t groups = k_pad / 32;
  for_dense_rows(x, begin, end, [&](int64_t r, int64_t rows, const uint8_t* data, int64_t ld) {
    kernels.quantize_rows(data, x.type, ld, input_scale, rows, x.k, k_pad, q + r * ld_q, ld_q, scale + r,
                          group_sum ? group_sum + r * groups : nullptr);
  });
}

}  // namespace kdnative
