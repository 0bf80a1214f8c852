// int8 weights on a GPU: rows are quantized into scratch, then multiplied.
#include "../cpu/packed.h"
#include "../cuda/w8a8.h"
#include "cuda.h"

namespace kdnative::cuda {

QuantizedRows::QuantizedRows(const Call& call, const float* input_scale)
    : k_pad((call.k + gpu::kW8A8PadK - 1) / gpu::kW8A8PadK * gpu::kW8A8PadK) {
  if (const char* problem = cpu::check_sums(call.k, false))
    fail(std::string(call.op) + " of an input of shape " + shape_text(call.x_tensor) + ": " + problem);
  const int64_t scale_at = (call.m * k_pad + 255) / 256 * 256;
  memory_ = Scratch(scale_at + call.m * int64_t{sizeof(float)}, call.device);
  q = reinterpret_cast<int8_t*>(memory_.data());
  scale = reinterpret_cast<float*>(q + scale_at);
  gpu::quantize(call.launcher, {call.x, call.type, input_scale, call.m, call.k, k_pad, q, scale});
}

gpu::Int8Product QuantizedRows::product(const Call& call, int64_t scale_at, int64_t bias_at) const {
  return {q,
          scale,
          call.floats(scale_at),
          call.floats(bias_at),
          nullptr,
          call.output(),
          call.type,
          call.activation,
          call.m,
          call.n,
          k_pad};
}

void run_w8a8(const Call& call) {
  const gpu::W8A8Layout w = gpu::w8a8_layout(call.n, call.k, {call.form.bias, call.form.input_scales, call.form.group});
  call.require_bytes(w.bytes);
  const QuantizedRows rows(call, call.floats(w.input_scale));
  gpu::w8a8(call.launcher,
            {rows.product(call, w.scale, w.bias), reinterpret_cast<const int8_t*>(call.packed + w.codes)});
}

}  // namespace kdnative::cuda
