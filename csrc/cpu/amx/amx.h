// What this folder provides; the other entries of the AMX table are those of avx512vnni. Exactness: ../kernels.h.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu::amx {

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_a16(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& r);
void attention(const AttentionArgs& a, int32_t head_begin, int32_t head_end);

}  // namespace kdnative::cpu::amx
