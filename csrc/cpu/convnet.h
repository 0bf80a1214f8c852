// A network of convolutions in one call: images in, real numbers out. The operator runs it (csrc/ops/convnet.cpp).
#pragma once

#include "kernels.h"
#include "split.h"

namespace kdnative::cpu {

struct ConvnetInputs {
  const void* packed;  // convnet_format.h, aligned to kAlignment
  int64_t packed_bytes;
  const void* images;  // [N, C, H, W]
  DType type;
  int64_t count, channels, height, width;
  int64_t image_stride, plane_stride, row_stride, step;  // of N, C, H and W, in elements
  int64_t features;                                      // what the caller allocated for: values of an image
};

// out: fp32 [N, features]: of each output of the network in order its values, pixel by pixel. An image that holds NaN
// gives NaN alone. Returns nullptr, or what is wrong with the inputs, in words; the text is valid until the next call
// on this thread and nothing has been written then. Results do not depend on the number of threads. Working memory is
// scratch() of the calling thread.
const char* convnet_forward(const Kernels& kernels, const Parallel& parallel, const ConvnetInputs& in, float* out);

}  // namespace kdnative::cpu
