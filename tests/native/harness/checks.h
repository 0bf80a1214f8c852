// The parts of the kernel harness; kernel_harness.cpp runs them.
#pragma once

#include "common.h"

namespace harness {

void check_quantize(const Kernels& t);
void check_gemms(const Tables& tables);  // the reference too
void check_a16(const Tables& tables);    // the reference too
void check_encoder(const Kernels& t);
void time_gemms(const Kernels& t);

}  // namespace harness
