// What this folder provides; table.cpp puts the functions in the table. Meanings and exactness: ../kernels.h.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu::avxvnni {

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void arrange_rows(const QuantizedRows& a, int64_t m_begin, int64_t m_end, uint8_t* panels);
bool gemm_blocks(const SparseLinear& w, const QuantizedRows& a, const uint8_t* panels, const Epilogue& e,
                 const GemmRange& r);

}  // namespace kdnative::cpu::avxvnni
