// quantize_per_token, norm_quantize: rows to int8.
#include "quantize.h"

#include <cmath>
#include <cstring>

#include "../cpu/dispatch.h"
#include "../cpu/scratch.h"
#include "library.h"

namespace kdnative {
namespace {

using cpu::Kernels;
using cpu::kTileK;

// Rows in parts, each a task of its own: work(begin, end, worker).
template <typename F>
void in_parts(const RowSource& rows, const cpu::Parallel& pool, const F& work) {
  const RowParts parts(rows.rows, rows.rows * rows.k < kSmallCopy ? 1 : pool.threads, 1);
  cpu::Stage stage;
  stage.tasks = parts.count();
  cpu::run_team(pool, std::max(stage.tasks, int64_t{1}), &stage, 1,
                [&](int64_t, int64_t part, int64_t worker) { work(parts.begin(part), parts.end(part), worker); });
}

void boxed_quantize(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor x = take_tensor(stack[0]);
  require_cpu(x, "quantize_per_token", "the input");
  const RowSource rows = rows_of(x, "quantize_per_token");
  QuantizedOutput out(rows, Device::cpu());
  const auto& kernels = cpu::kernels();
  // Kernels write whole tiles: a ragged row goes through padded scratch.
  const int64_t k_pad = (rows.k + kTileK - 1) / kTileK * kTileK;
  auto* padded = k_pad == rows.k ? out.codes() : static_cast<int8_t*>(scratch(static_cast<size_t>(rows.rows * k_pad)));
  in_parts(rows, thread_pool(), [&](int64_t first, int64_t last, int64_t) {
    quantize_range(kernels, rows, nullptr, first, last, k_pad, padded, k_pad, out.scales(), nullptr);
    for (int64_t r = first; padded != out.codes() && r < last; ++r)
      std::memcpy(out.codes() + r * rows.k, padded + r * k_pad, static_cast<size_t>(rows.k));
  });
  out.give(stack);
}

// y = x / sqrt(mean(x^2) + eps) * gamma + beta, in place. No kernel of an instruction set does that: LayerNorm is what
// encoders on the CPU have.
void rms_norm(float* x, int64_t k, const float* gamma, const float* beta, float eps) {
  double squares = 0;
  for (int64_t i = 0; i < k; ++i) squares += static_cast<double>(x[i]) * x[i];
  const auto inverse = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(k) + eps));
  for (int64_t i = 0; i < k; ++i) x[i] = x[i] * inverse * gamma[i] + beta[i];
}

void boxed_norm_quantize(StableIValue* stack, uint64_t, uint64_t) {
  const NormCall call(stack);
  require_cpu(call.x, NormCall::op, "the input");
  const RowSource rows = call.checked();
  QuantizedOutput out(rows, Device::cpu());
  const auto& kernels = cpu::kernels();
  const cpu::Parallel pool = thread_pool();
  constexpr int64_t most = 16;  // rows that a worker keeps in fp32, near, between the norm and the codes
  const int64_t k_pad = (rows.k + kTileK - 1) / kTileK * kTileK;
  struct Room {
    float *rows, *beta;
    int8_t* codes;
    Room(Carver& c, int64_t workers, int64_t k, int64_t k_pad)
        : rows(c.take<float>(workers * most * k)), beta(c.take<float>(k)), codes(c.take<int8_t>(workers * k_pad)) {}
  };
  Carver count;
  Room(count, pool.threads, rows.k, k_pad);
  Carver place(scratch(count.used()));
  const Room room(place, pool.threads, rows.k, k_pad);
  const float* beta = call.beta ? floats_of(call.beta) : std::fill_n(room.beta, rows.k, 0.0f) - rows.k;
  const float* input_scale = call.input_scale ? floats_of(call.input_scale) : nullptr;
  in_parts(rows, pool, [&](int64_t begin, int64_t end, int64_t worker) {
    float* normed = room.rows + worker * most * rows.k;
    int8_t* codes = room.codes + worker * k_pad;
    for (int64_t first = begin; first < end; first += most) {
      const int64_t last = std::min(end, first + most);
      for_dense_rows(rows, first, last, [&](int64_t r, int64_t n, const uint8_t* data, int64_t ld) {
        kernels.convert_rows(data, rows.type, ld, nullptr, n, rows.k, normed, cpu::DType::f32, rows.k);
        if (call.rms) {
          for (int64_t i = 0; i < n; ++i) rms_norm(normed + i * rows.k, rows.k, floats_of(call.gamma), beta, call.eps);
        } else {
          kernels.layer_norm(normed, rows.k, floats_of(call.gamma), beta, call.eps, n, rows.k, normed, rows.k);
        }
        for (int64_t i = 0; i < n; ++i) {
          kernels.quantize_rows(normed + i * rows.k, cpu::DType::f32, rows.k, input_scale, 1, rows.k, k_pad, codes,
                                k_pad, out.scales() + r + i, nullptr);
          std::memcpy(out.codes() + (r + i) * rows.k, codes, static_cast<size_t>(rows.k));
        }
      });
    }
  });
  out.give(stack);
}

}  // namespace

QuantizedOutput::QuantizedOutput(const RowSource& rows, Device device) {
  static const int32_t i8 = aoti_torch_dtype_int8(), f32 = aoti_torch_dtype_float32();
  q = Tensor::empty(rows.ndim + 1, rows.sizes, i8, device);
  scale = Tensor::empty(rows.ndim, rows.sizes, f32, device);
}

void QuantizedOutput::give(StableIValue* stack) {
  stack[0] = give_tensor(std::move(q));
  stack[1] = give_tensor(std::move(scale));
}

NormCall::NormCall(StableIValue* stack)
    : x(take_tensor(stack[0])),
      gamma(take_tensor(stack[1])),
      beta(take_optional_tensor(stack[2])),
      eps(static_cast<float>(take_float(stack[3]))),
      input_scale(take_optional_tensor(stack[4])),
      rms(take_int(stack[5]) != 0) {}

RowSource NormCall::checked() const {
  const RowSource rows = rows_of(x, op);
  const std::string called = std::string(op) + " of an input of shape " + shape_text(x) + ": ";
  if (rows.k == 0) fail(called + "there is nothing to normalize; at least one column is needed");
  if (!(eps >= 0) || std::isinf(eps)) fail(called + "eps is " + std::to_string(eps) + "; it must be 0 or more");
  static const int32_t f32 = aoti_torch_dtype_float32();
  const std::pair<const char*, const Tensor*> vectors[] = {
      {"gamma", &gamma}, {"beta", &beta}, {"input_scale", &input_scale}};
  for (const auto& [name, given] : vectors) {
    if (!*given) continue;
    if (!(given->device() == x.device()))
      fail(called + name + " is on " + device_text(given->device()) + " and the input on " + device_text(x.device()) +
           "; move both to one");
    if (given->dtype() != f32 || given->dim() != 1 || given->sizes()[0] != rows.k || !given->contiguous())
      fail(called + name + " must be a contiguous float32 tensor of shape " + shape_text(1, &rows.k) + ", not " +
           dtype_text(given->dtype()) + " of shape " + shape_text(*given));
  }
  return rows;
}

void register_quantize(Library& library) {
  using cpu::origins_of;
  library.op("quantize_per_token(Tensor x) -> (Tensor, Tensor)", "quantize_per_token", boxed_quantize,
             {{"quantize_rows", origins_of<&Kernels::quantize_rows>}});
  library.op(
      "norm_quantize(Tensor x, Tensor gamma, Tensor? beta, float eps, Tensor? input_scale=None, int rms=0) -> "
      "(Tensor, Tensor)",
      "norm_quantize", boxed_norm_quantize,
      {{"layer_norm", origins_of<&Kernels::layer_norm>},
       {"quantize_rows", origins_of<&Kernels::quantize_rows>},
       {"convert_rows", origins_of<&Kernels::convert_rows>}});
}

}  // namespace kdnative
