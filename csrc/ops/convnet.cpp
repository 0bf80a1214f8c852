// convnet: argument checks and torch's thread pool around cpu::convnet_forward.
#include "../cpu/convnet.h"

#include <new>

#include "../cpu/dispatch.h"
#include "library.h"
#include "tensor.h"

namespace kdnative {
namespace {

void boxed_convnet(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor packed = take_tensor(stack[0]), x = take_tensor(stack[1]);
  const int64_t features = take_int(stack[2]);
  static const int32_t u8 = aoti_torch_dtype_uint8(), f32 = aoti_torch_dtype_float32();
  require_cpu(packed, "convnet", "packed");
  require_cpu(x, "convnet", "x");
  if (packed.dtype() != u8 || packed.dim() != 1 || !packed.contiguous())
    fail("convnet: packed must be a contiguous uint8 tensor of one dimension (got " + dtype_text(packed.dtype()) +
         " of shape " + shape_text(packed) + ")");
  if (x.dim() != 4) fail("convnet: x must be [N, C, H, W] (got shape " + shape_text(x) + ")");
  if (features < 1) fail("convnet: features must be positive (got " + std::to_string(features) + ")");
  const cpu::DType type = float_type(x, "convnet", "x");
  const int64_t *size = x.sizes(), *stride = x.strides();
  const cpu::ConvnetInputs in{packed.data(), packed.sizes()[0], x.data(),  type,      size[0],   size[1], size[2],
                              size[3],       stride[0],         stride[1], stride[2], stride[3], features};
  const int64_t sizes[2] = {in.count, features};
  Tensor out = Tensor::empty(2, sizes, f32);
  const char* problem = nullptr;
  try {
    problem = cpu::convnet_forward(cpu::kernels(), thread_pool(), in, static_cast<float*>(out.data()));
  } catch (const std::bad_alloc&) {
    problem = "there is no memory for the maps of these images; give smaller ones, or fewer at a time";
  }
  if (problem != nullptr) fail(std::string("convnet: ") + problem);
  stack[0] = give_tensor(std::move(out));
}

}  // namespace

void register_convnet(Library& library) {
  using namespace cpu;
  library.op("convnet(Tensor packed, Tensor x, SymInt features) -> Tensor", "convnet", boxed_convnet,
             {{"conv", origins_of<&Kernels::conv>},
              {"depthwise", origins_of<&Kernels::depthwise>},
              {"max_window", origins_of<&Kernels::max_window>},
              {"average_window", origins_of<&Kernels::average_window>},
              {"add_codes", origins_of<&Kernels::add_codes>},
              {"multiply_codes", origins_of<&Kernels::multiply_codes>},
              {"look_up", origins_of<&Kernels::look_up>},
              {"quantize_pixels", origins_of<&Kernels::quantize_pixels>}});
}

}  // namespace kdnative
