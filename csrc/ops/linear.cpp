// quantize_per_token, linear_wXa8, linear_wXa16: argument checks, allocation, work split.
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

// Elements from x.data to a row.
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

// What a call computes, to be split over threads.
struct Problem {
  const Kernels& kernels;
  const cpu::PackedLinear& w;
  const RowSource& x;
  uint8_t* out;
  Activation activation;

  cpu::Epilogue epilogue() const { return {out, w.n, x.type, activation, nullptr, 0}; }
};

// Integer activations: every row is quantized first.
struct IntegerProblem : Problem {
  static constexpr int64_t kSmallest = kSmallWork;
  static constexpr bool copies = true;
  int8_t* q;
  float* scale;
  int32_t* group_sum;
  int8_t* panels;  // of the threads

  explicit IntegerProblem(const Problem& p) : Problem(p) {}
  void carve(Carver& c) {
    q = c.take<int8_t>(x.rows * cpu::quantized_row_bytes(w.k_pad));
    scale = c.take<float>(x.rows);
    group_sum = w.bits != 8 ? c.take<int32_t>(x.rows * (w.k_pad / 32)) : nullptr;
    panels = c.take<int8_t>(cpu::panel_bytes(kernels, w) == 0 ? 0 : cpu::panel_bytes(kernels, w) * thread_count());
  }
  void prepare(int64_t begin, int64_t end) const {
    quantize_range(kernels, x, w.input_scale, begin, end, w.k_pad, q, cpu::quantized_row_bytes(w.k_pad), scale,
                   group_sum);
  }
  void multiply(cpu::GemmRange range, int64_t worker) const {
    range.panel = panels + worker * cpu::panel_bytes(kernels, w);
    cpu::gemm_of(kernels, w)(w, {q, cpu::quantized_row_bytes(w.k_pad), scale, group_sum, w.k_pad}, epilogue(), range);
  }
};

// Float activations: rows that are not dense, or not of the type that the kernel takes, are copied first; so are rows
// that lie whole pages apart, since a block of them would share few sets of the nearest cache, and rows that input
// scales multiply.
struct FloatProblem : Problem {
  static constexpr int64_t kSmallest = kSmallWork / 4;  // a float product takes about four times as long
  cpu::FloatRows rows;
  bool copies = false;
  uint8_t* copy = nullptr;

  explicit FloatProblem(const Problem& p) : Problem(p) {
    const bool bf16 = kernels.bf16_rows > 0 && x.rows >= kernels.bf16_rows && x.type != DType::f16;
    rows = {x.data + row_offset(x, 0) * element_size(x.type), bf16 ? DType::bf16 : DType::f32, x.row_stride};
  }
  void carve(Carver& c) {
    const int64_t size = element_size(rows.type), width = rows.type == DType::bf16 ? w.k_pad : x.k;
    const bool pages_apart = x.rows >= 8 && x.row_stride * size % 4096 == 0;
    if (w.input_scale == nullptr && x.uniform && x.type == rows.type && x.k == width && !pages_apart) return;
    rows.ld = (width + 15) / 16 * 16 + 64 / size;
    copies = true;
    rows.x = copy = c.take<uint8_t>(x.rows * rows.ld * size);
  }
  void prepare(int64_t begin, int64_t end) const {
    if (!copies) return;
    const int64_t row_bytes = rows.ld * element_size(rows.type);
    for_dense_rows(x, begin, end, [&](int64_t r, int64_t count, const uint8_t* data, int64_t ld) {
      kernels.convert_rows(data, x.type, ld, w.input_scale, count, x.k, copy + r * row_bytes, rows.type, rows.ld);
    });
  }
  void multiply(const cpu::GemmRange& range, int64_t) const {
    (rows.type == DType::bf16 ? kernels.gemm_a16_bf16 : kernels.gemm_a16)(w, rows, epilogue(), range);
  }
};

template <typename Work>
Tensor linear(const char* op, int32_t bits, const Tensor& x, const Tensor& packed, int64_t out_features,
              int64_t activation, int64_t form) {
  require_cpu(x, op, "the input");
  require_header(op, form);
  require_packed(packed, op, "kdnative.formats.dense.pack");
  cpu::PackedLinear w;
  if (const char* problem = cpu::parse_packed(packed.data(), packed.sizes()[0], bits, &w))
    fail(std::string(op) + ": " + problem);
  if (std::is_same_v<Work, FloatProblem> && w.group_scale != nullptr)
    fail(std::string(op) + ": the packed weight has integer group scales, which work with int8 activations only; use " +
         "linear_w4a8");
  if (std::is_same_v<Work, IntegerProblem>) {
    const char* problem = cpu::check_sums(w.k, w.bits != 8 && w.group_scale == nullptr);
    if (problem != nullptr) fail(std::string(op) + ": " + problem);
  }
  const RowSource rows = rows_of(x, op);
  require_fitting(x, rows, w, op, out_features, activation);
  Tensor out = empty_output(x, rows, w.n);
  for_parts(rows, out.data(), w.n, [&](const RowSource& part, uint8_t* part_out) {
    Work work(Problem{cpu::kernels(), w, part, part_out, static_cast<Activation>(activation)});
    Carver count;
    work.carve(count);
    Carver place(scratch(count.used()));
    work.carve(place);
    share_out(
        part.rows, w, work.kernels.tile_rows, Work::kSmallest, work.copies,
        [&](int64_t begin, int64_t end) { work.prepare(begin, end); },
        [&](const cpu::GemmRange& range, int64_t worker) { work.multiply(range, worker); });
  });
  return out;
}

template <typename Work>
const char* op_name(int32_t bits) {
  constexpr bool floats = std::is_same_v<Work, FloatProblem>;
  return bits == 8   ? (floats ? "linear_w8a16" : "linear_w8a8")
         : bits == 4 ? (floats ? "linear_w4a16" : "linear_w4a8")
                     : (floats ? "linear_w2a16" : "linear_w2a8");
}

template <typename Work, int32_t bits>
void boxed_linear(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor x = take_tensor(stack[0]), packed = take_tensor(stack[1]);
  stack[0] = give_tensor(
      linear<Work>(op_name<Work>(bits), bits, x, packed, take_int(stack[2]), take_int(stack[3]), take_int(stack[4])));
}

template <typename Work, int32_t bits>
std::vector<cpu::KernelUse> kernels_of() {
  using namespace cpu;
  if constexpr (std::is_same_v<Work, FloatProblem>) {
    return {{"gemm_a16_bf16", origins_of<&Kernels::gemm_a16_bf16>},
            {"gemm_a16", origins_of<&Kernels::gemm_a16>},
            {"convert_rows", origins_of<&Kernels::convert_rows>}};
  } else {
    const KernelUse quantize = {"quantize_rows", origins_of<&Kernels::quantize_rows>};
    if (bits == 8) return {{"gemm_w8a8", origins_of<&Kernels::gemm_w8a8>}, quantize};
    if (bits == 2) return {{"gemm_w2a8", origins_of<&Kernels::gemm_w2a8>}, quantize};
    return {{"gemm_w4a8", origins_of<&Kernels::gemm_w4a8>},
            {"gemm_two_level", origins_of<&Kernels::gemm_two_level>},
            quantize};
  }
}

template <typename Work, int32_t bits>
void add_linear(Library& library) {
  const char* name = op_name<Work>(bits);
  const std::string schema =
      std::string(name) + "(Tensor x, Tensor packed, int out_features, int activation, int form=0) -> Tensor";
  library.op(schema.c_str(), name, boxed_linear<Work, bits>, kernels_of<Work, bits>());
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
  // Kernels write whole tiles: a ragged row goes through padded scratch.
  const int64_t k_pad = (rows.k + kTileK - 1) / kTileK * kTileK;
  auto* padded = k_pad == rows.k ? q_data : static_cast<int8_t*>(scratch(static_cast<size_t>(rows.rows * k_pad)));
  const cpu::Parallel pool = thread_pool();
  const RowParts parts(rows.rows, rows.rows * rows.k < kSmallCopy ? 1 : pool.threads, 1);
  cpu::Stage stage;
  stage.tasks = parts.count();
  cpu::run_team(pool, std::max(stage.tasks, int64_t{1}), &stage, 1, [&](int64_t, int64_t part, int64_t) {
    const int64_t first = parts.begin(part), last = parts.end(part);
    quantize_range(kernels, rows, nullptr, first, last, k_pad, padded, k_pad, scale_data, nullptr);
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

void require_packed(const Tensor& packed, const char* op, const char* builder) {
  require_cpu(packed, op, "the packed weight");
  static const int32_t u8 = aoti_torch_dtype_uint8();
  if (packed.dtype() != u8 || packed.dim() != 1 || !packed.contiguous())
    fail(std::string(op) + ": the packed weight must be a contiguous 1-D uint8 tensor built by " + builder);
  if (reinterpret_cast<uintptr_t>(packed.data()) % cpu::kAlignment != 0)
    fail(std::string(op) + ": the packed weight is not 8-byte aligned (a view into another tensor?); clone() it");
}

void require_header(const char* op, int64_t form) {
  if (form != 0)
    fail(std::string(op) + ": form " + std::to_string(form) +
         " is that of a weight for a GPU; move its module with .cpu(), which lays the weight out again");
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
  return Tensor::empty(rows.ndim + 1, sizes, x.dtype(), x.device());
}

void quantize_range(const Kernels& kernels, const RowSource& x, const float* input_scale, int64_t begin, int64_t end,
                    int64_t k_pad, int8_t* q, int64_t ld_q, float* scale, int32_t* group_sum) {
  const int64_t groups = k_pad / 32;
  for_dense_rows(x, begin, end, [&](int64_t r, int64_t rows, const uint8_t* data, int64_t ld) {
    kernels.quantize_rows(data, x.type, ld, input_scale, rows, x.k, k_pad, q + r * ld_q, ld_q, scale + r,
                          group_sum ? group_sum + r * groups : nullptr);
  });
}

void register_linear(Library& library) {
  library.op("quantize_per_token(Tensor x) -> (Tensor, Tensor)", "quantize_per_token", boxed_quantize,
             {{"quantize_rows", cpu::origins_of<&Kernels::quantize_rows>}});
  add_linear<IntegerProblem, 8>(library);
  add_linear<IntegerProblem, 4>(library);
  add_linear<IntegerProblem, 2>(library);
  add_linear<FloatProblem, 8>(library);
  add_linear<FloatProblem, 4>(library);
  add_linear<FloatProblem, 2>(library);
}

}  // namespace kdnative
