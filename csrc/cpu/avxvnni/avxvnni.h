// What this folder provides; table.cpp puts the functions in the table. Meanings and exactness: ../kernels.h.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu::avxvnni {

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);

}  // namespace kdnative::cpu::avxvnni
