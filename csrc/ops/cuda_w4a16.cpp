// 4-bit and 8-bit weights and float activations on a GPU: one or two launches, or for many rows the weights in scratch
// as 16-bit floats and torch's own product, which is faster there.
#include <cstdlib>
#include <cstring>

#include "../cuda/w4a16.h"
#include "cuda.h"

namespace kdnative::cuda {
namespace {

// What torch makes of the result of a product, in place; nullptr: nothing that the C ABI can ask for.
const char* torch_activation(gpu::Activation activation) {
  switch (activation) {
    case gpu::Activation::none:
      return "";
    case gpu::Activation::relu:
      return "aten::relu_";
    case gpu::Activation::silu:
      return "aten::silu_";
    case gpu::Activation::tanh:
      return "aten::tanh_";
    default:
      return nullptr;
  }
}

// The product rounds to the type of x before the activation: torch has no other.
void run_by_torch(const Call& call, const gpu::W4A16& a, const gpu::W4A16Layout& w) {
  const int32_t dtype = call.x_tensor.dtype();
  const int64_t sizes[] = {call.n, call.k};
  Tensor weight = Tensor::empty(2, sizes, dtype, call.device), bias;
  gpu::w4a16_dequantize(call.launcher, a.packed, a.form, call.n, call.k, call.type, weight.data());
  if (w.bias >= 0) {
    bias = Tensor::empty(1, &call.n, dtype, call.device);
    static const int32_t f32 = aoti_torch_dtype_float32();
    bias.copy_(Tensor::of_memory(call.floats(w.bias), {}, call.n, f32, call.device));
  }
  call.output();
  // The overload with `out`, since autocast may be on here, and gives results of other types without. Nothing of this
  // is for autograd, which refuses such overloads: x is a view that it doesn't know.
  StableIValue stack[4] = {give_tensor(Tensor::of_memory(call.x, call.m, call.k, dtype, call.device)),
                           give_tensor(std::move(weight)), give_optional_tensor(std::move(bias)),
                           give_tensor(call.result.columns(call.m, call.n, call.n))};
  check(torch_call_dispatcher("aten::linear", "out", stack, kTorchAbiVersion), "a product");
  if (const char* name = torch_activation(call.activation); *name != 0)
    check(torch_call_dispatcher(name, "", stack, kTorchAbiVersion), "an activation");
  take_tensor(stack[0]);  // the view of the result
}

// KDNATIVE_GPU_KERNELS=cublas: however few rows there are.
bool torch_is_forced() {
  static const bool forced = [] {
    const char* kernels = std::getenv("KDNATIVE_GPU_KERNELS");
    return kernels != nullptr && std::strcmp(kernels, "cublas") == 0;
  }();
  return forced;
}

}  // namespace

void run_w4a16(const Call& call) {
  const gpu::W4A16Form form{call.form.bits, call.form.group, call.form.zeros, call.form.bias, call.form.input_scales};
  const gpu::W4A16Layout w = gpu::w4a16_layout(call.n, call.k, form);
  call.require_bytes(w.bytes);
  gpu::W4A16 a{call.x,          call.type, call.packed, form,   nullptr, nullptr,
               call.activation, call.m,    call.n,      call.k, nullptr, nullptr};
  // fp32 stays with the kernel, which sums in fp32: torch's product of bfloat16 would round.
  const bool always = call.type == gpu::DType::f32 || torch_activation(call.activation) == nullptr;
  const gpu::W4A16Plan plan = gpu::choose_w4a16(a, call.launcher.multiprocessors(), call.launcher.capability(), always);
  if (plan.way == gpu::W4A16Plan::dequantize || (!always && torch_is_forced())) return run_by_torch(call, a, w);
  a.counters = plan.counters > 0 ? call.launcher.counters(plan.counters) : nullptr;
  const bool own = plan.counters > 0 && a.counters == nullptr;
  const int64_t counters_at = (plan.scratch_bytes + 255) / 256 * 256;
  const Scratch scratch(counters_at + (own ? plan.counters * int64_t{sizeof(uint32_t)} : 0), call.device);
  a.scratch = scratch.data();
  if (own) {
    a.counters = reinterpret_cast<uint32_t*>(scratch.data() + counters_at);
    call.launcher.zero(a.counters, plan.counters);
  }
  a.out = call.output();
  gpu::w4a16(call.launcher, a, plan);
}

}  // namespace kdnative::cuda
