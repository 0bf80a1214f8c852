// The parts of the kernel harness; kernel_harness.cpp runs them.
#pragma once

#include "common.h"

namespace harness {

void check_quantize(const Kernels& t);
void check_gemms(const Tables& tables);  // the reference too
void check_a16(const Tables& tables);    // the reference too
void check_sparse(const Tables& tables);
void check_conv(const Tables& tables);  // the reference too
void check_layer_norm(const Kernels& t);
void check_attention(const Kernels& t);
void check_add_scaled_int8(const Kernels& t);
void check_rotate(const Kernels& t);
void check_gate(const Kernels& t);
void check_depthwise(const Kernels& t);
void check_codes(const Kernels& t);
void time_gemms(const Kernels& t);

}  // namespace harness
