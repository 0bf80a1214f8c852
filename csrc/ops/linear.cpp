// linear_wXa8, linear_wXa16: argument checks, allocation, work split.
#include "linear.h"

#include <algorithm>

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

}  // namespace

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

void register_linear(Library& library) {
  add_linear<IntegerProblem, 8>(library);
  add_linear<IntegerProblem, 4>(library);
  add_linear<IntegerProblem, 2>(library);
  add_linear<FloatProblem, 8>(library);
  add_linear<FloatProblem, 4>(library);
  add_linear<FloatProblem, 2>(library);
}

}  // namespace kdnative
