// int8 weights on a GPU: rows are quantized into scratch, then multiplied.
#include "../cuda/w8a8.h"
#include "cuda.h"

namespace kdnative::cuda {

void run_w8a8(const Call& call) {
  const gpu::W8A8Layout w = gpu::w8a8_layout(call.n, call.k, {call.form.bias, call.form.input_scales, call.form.group});
  call.require_bytes(w.bytes);
  const auto floats = [&](int64_t at) { return at < 0 ? nullptr : reinterpret_cast<const float*>(call.packed + at); };
  const int64_t scale_at = (call.m * w.k_pad + 255) / 256 * 256;
  const Tensor scratch = call.scratch(scale_at + call.m * int64_t{sizeof(float)});
  auto* q = static_cast<int8_t*>(scratch.data());
  auto* scale = reinterpret_cast<float*>(q + scale_at);
  gpu::quantize(call.launcher, {call.x, call.type, floats(w.input_scale), call.m, call.k, w.k_pad, q, scale});
  gpu::w8a8(call.launcher, {q, scale, reinterpret_cast<const int8_t*>(call.packed + w.codes), floats(w.scale),
                            floats(w.bias), nullptr, call.out, call.type, call.activation, call.m, call.n, w.k_pad});
}

}  // namespace kdnative::cuda
