// What this folder provides; table.cpp puts the functions in the table. Meanings and exactness: ../kernels.h.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu::avx512bf16 {

void gemm_a16(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& r);
void attention(const AttentionArgs& a, int32_t head_begin, int32_t head_end);

}  // namespace kdnative::cpu::avx512bf16
