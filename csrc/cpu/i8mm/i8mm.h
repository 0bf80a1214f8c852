// What this folder provides; the other entries of the i8mm table are those of neon. Exactness: ../kernels.h.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu::i8mm {

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);

}  // namespace kdnative::cpu::i8mm
