// The two ways of gemm_mask and expand_mask: with VBMI2, and with a table for processors without it.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu::avx512vnni {

bool expand_mask_vbmi2(const SparseLinear& w, int64_t tile, int8_t* dense);
bool expand_mask_table(const SparseLinear& w, int64_t tile, int8_t* dense);
bool gemm_mask_vbmi2(const SparseLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range);
bool gemm_mask_table(const SparseLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range);

}  // namespace kdnative::cpu::avx512vnni
