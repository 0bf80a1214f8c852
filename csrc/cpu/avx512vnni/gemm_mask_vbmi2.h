// gemm_mask and expand_mask for processors with VBMI2.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu::avx512vnni {

bool expand_mask_vbmi2(const SparseLinear& w, int64_t tile, int8_t* dense);
bool gemm_mask_vbmi2(const SparseLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range);

}  // namespace kdnative::cpu::avx512vnni
