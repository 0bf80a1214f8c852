// quantize_per_token, linear_w8a8, linear_w4a8, linear_w2a8: argument checks, allocation, work split.
#include "linear.h"

#include <algorithm>
#include <vector>

#include "../cpu/dispatch.h"
#include "../cpu/scratch.h"
#include "library.h"

namespace kdnative {
namespace {

using cpu::Activation;
using cpu::DType;
using cpu::Kernels;
using cpu::kTileK;
using cpu::kTileN;

int64_t element_size(DType type) { return type == DType::f32 ? 4 : 2; }

int64_t row_offset(const RowSource& x, int64_t row) {
  int64_t offset = 0;
  for (int64_t d = x.ndim - 1; d >= 0; --d) {
    offset += row % x.sizes[d] * x.strides[d];
    row /= x.sizes[d];
  }
  return offset;
}

template <typename T>
void gather(const T* source, int64_t stride, int64_t n, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = source[i * stride];
}

Tensor linear(const char* op, int32_t bits, const Tensor& x, const Tensor& packed, int64_t out_features,
              int64_t activation) {
  require_cpu(x, op, "the input");
  require_packed(packed, op, "kdnative.ops.packing.pack");
  cpu::PackedLinear w;
  if (const char* problem = cpu::parse_packed(packed.data(), packed.sizes()[0], bits, &w))
    fail(std::string(op) + ": " + problem);
  const RowSource rows = rows_of(x, op);
  require_fitting(x, rows, w, op, out_features, activation);
  Tensor out = empty_output(x, rows, w.n);
  if (rows.rows == 0) return out;

  Carver count;
  const auto carve = [&](Carver& c, int8_t*& q, float*& scale, int32_t*& sums) {
    q = c.take<int8_t>(rows.rows * w.k_pad);
    scale = c.take<float>(rows.rows);
    sums = w.bits != 8 ? c.take<int32_t>(rows.rows * (w.k_pad / 32)) : nullptr;
  };
  int8_t* q;
  float* scale;
  int32_t* sums;
  carve(count, q, scale, sums);
  Carver place(scratch(count.used()));
  carve(place, q, scale, sums);

  const Kernels& kernels = cpu::kernels();
  const cpu::QuantizedRows a{q, scale, sums, w.k_pad};
  const cpu::Epilogue e{out.data(), w.n, rows.type, static_cast<Activation>(activation), nullptr, 0};
  share_out(
      rows.rows, w, kTileN,
      [&](int64_t begin, int64_t end) { quantize_range(kernels, rows, begin, end, w.k_pad, q, scale, sums); },
      [&](const cpu::GemmRange& range, int64_t) { cpu::gemm_of(kernels, w)(w, a, e, range); });
  return out;
}

template <int32_t bits>
void boxed_linear(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor x = take_tensor(stack[0]), packed = take_tensor(stack[1]);
  constexpr const char* op = bits == 8 ? "linear_w8a8" : bits == 4 ? "linear_w4a8" : "linear_w2a8";
  stack[0] = give_tensor(linear(op, bits, x, packed, take_int(stack[2]), take_int(stack[3])));
}

void boxed_quantize(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor x = take_tensor(stack[0]);
  require_cpu(x, "quantize_per_token", "the input");
  const RowSource rows = rows_of(x, "quantize_per_token");
  static const int32_t i8 = aoti_torch_dtype_int8(), f32 = aoti_torch_dtype_float32();
  Tensor q = Tensor::empty(rows.ndim + 1, rows.sizes, i8), scale = Tensor::empty(rows.ndim, rows.sizes, f32);
  auto* q_data = static_cast<int8_t*>(q.data());
  auto* scale_data = static_cast<float*>(scale.data());
  const auto& kernels = cpu::kernels();
  const int64_t chunks = rows.rows * rows.k < kSmallWork / 8 ? 1 : std::min(rows.rows, thread_count());
  // Kernels write whole tiles: a ragged row goes through padded scratch.
  const int64_t k_pad = (rows.k + kTileK - 1) / kTileK * kTileK;
  auto* padded = k_pad == rows.k ? q_data : static_cast<int8_t*>(scratch(static_cast<size_t>(rows.rows * k_pad)));
  parallel(rows.rows == 0 ? 0 : chunks, [&](int64_t begin, int64_t end) {
    const int64_t first = rows.rows * begin / chunks, last = rows.rows * end / chunks;
    quantize_range(kernels, rows, first, last, k_pad, padded, scale_data, nullptr);
    for (int64_t r = first; padded != q_data && r < last; ++r)
      std::memcpy(q_data + r * rows.k, padded + r * k_pad, static_cast<size_t>(rows.k));
  });
  stack[0] = give_tensor(std::move(q));
  stack[1] = give_tensor(std::move(scale));
}

}  // namespace

RowSource rows_of(const Tensor& x, const char* op) {
  const int64_t ndim = x.dim();
  if (ndim < 1) fail(std::string(op) + ": the input must have at least one dimension (got a scalar)");
  if (ndim > Tensor::kMaxDims)
    fail(std::string(op) + ": the input has more than 16 dimensions; reshape it to [rows, features]");
  RowSource s{};
  s.type = float_type(x, (std::string(op) + ": the input").c_str());
  s.data = static_cast<const uint8_t*>(x.data());
  s.sizes = x.sizes();
  s.strides = x.strides();
  s.ndim = ndim - 1;
  s.k = s.sizes[s.ndim];
  s.column_stride = s.strides[s.ndim];
  s.rows = 1;
  for (int64_t d = 0; d < s.ndim; ++d) s.rows *= s.sizes[d];
  // Leading dimensions fold into one stride when each is the next one's size times its stride.
  s.uniform = s.column_stride == 1 || s.k == 1;
  s.row_stride = s.k;
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

void require_packed(const Tensor& packed, const char* op, const char* builder) {
  require_cpu(packed, op, "the packed weight");
  static const int32_t u8 = aoti_torch_dtype_uint8();
  if (packed.dtype() != u8 || packed.dim() != 1 || !packed.contiguous())
    fail(std::string(op) + ": the packed weight must be a contiguous 1-D uint8 tensor built by " + builder);
  if (reinterpret_cast<uintptr_t>(packed.data()) % 64 != 0)
    fail(std::string(op) + ": the packed weight is not 64-byte aligned (a view into another tensor?); clone() it");
}

void require_fitting(const Tensor& x, const RowSource& rows, const cpu::PackedLinear& w, const char* op,
                     int64_t out_features, int64_t activation) {
  if (w.n != out_features)
    fail(std::string(op) + ": out_features is " + std::to_string(out_features) + " but the packed weight has " +
         std::to_string(w.n));
  if (activation < 0 || activation > 5)
    fail(std::string(op) + ": activation code " + std::to_string(activation) + " is unknown; allowed are 0 to 5");
  if (rows.k != w.k)
    fail(std::string(op) + ": the input has shape " + shape_text(x) + ", but its last dimension must be " +
         std::to_string(w.k) + " (the weight is [" + std::to_string(w.n) + ", " + std::to_string(w.k) + "])");
}

Tensor empty_output(const Tensor& x, const RowSource& rows, int64_t n) {
  int64_t sizes[Tensor::kMaxDims];
  std::copy(rows.sizes, rows.sizes + rows.ndim, sizes);
  sizes[rows.ndim] = n;
  return Tensor::empty(rows.ndim + 1, sizes, x.dtype());
}

void quantize_range(const Kernels& kernels, const RowSource& x, int64_t begin, int64_t end, int64_t k_pad, int8_t* q,
                    float* scale, int32_t* group_sum) {
  const int64_t size = element_size(x.type), groups = k_pad / 32;
  if (x.uniform) {
    kernels.quantize_rows(x.data + begin * x.row_stride * size, x.type, x.row_stride, end - begin, x.k, k_pad,
                          q + begin * k_pad, scale + begin, group_sum ? group_sum + begin * groups : nullptr);
    return;
  }
  // Rows that are not dense are gathered into a small buffer first.
  thread_local std::vector<uint8_t> row;
  row.resize(static_cast<size_t>(x.k * size));
  for (int64_t r = begin; r < end; ++r) {
    const uint8_t* source = x.data + row_offset(x, r) * size;
    if (size == 4) {
      gather(reinterpret_cast<const uint32_t*>(source), x.column_stride, x.k, reinterpret_cast<uint32_t*>(row.data()));
    } else {
      gather(reinterpret_cast<const uint16_t*>(source), x.column_stride, x.k, reinterpret_cast<uint16_t*>(row.data()));
    }
    kernels.quantize_rows(row.data(), x.type, x.k, 1, x.k, k_pad, q + r * k_pad, scale + r,
                          group_sum ? group_sum + r * groups : nullptr);
  }
}

void register_linear(Library& library) {
  library.op("quantize_per_token(Tensor x) -> (Tensor, Tensor)", "quantize_per_token", boxed_quantize);
  library.op("linear_w8a8(Tensor x, Tensor packed, int out_features, int activation) -> Tensor", "linear_w8a8",
             boxed_linear<8>);
  library.op("linear_w4a8(Tensor x, Tensor packed, int out_features, int activation) -> Tensor", "linear_w4a8",
             boxed_linear<4>);
  library.op("linear_w2a8(Tensor x, Tensor packed, int out_features, int activation) -> Tensor", "linear_w2a8",
             boxed_linear<2>);
}

}  // namespace kdnative
