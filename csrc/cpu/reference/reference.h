// The scalar truth of every kernel: what the other instruction sets must reproduce.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu::reference {

void quantize_rows(const void* x, DType type, int64_t ld_x, int64_t rows, int64_t k, int64_t k_pad, int8_t* q,
                   int64_t ld_q, float* scale, int32_t* group_sum);
void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void convert_rows(const void* x, DType type, int64_t ld_x, int64_t rows, int64_t k, void* out, DType out_type,
                  int64_t ld_out);
void gemm_a16(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& r);
void arrange_rows(const QuantizedRows& a, int64_t m_begin, int64_t m_end, uint8_t* panels);
bool gemm_blocks(const SparseLinear& w, const QuantizedRows& a, const uint8_t* panels, const Epilogue& e,
                 const GemmRange& r);
bool expand_mask(const SparseLinear& w, int64_t tile, int8_t* dense);
bool expand_codes(const SparseLinear& w, int64_t tile, uint8_t* dense);
void layer_norm(const float* x, int64_t ld_x, const float* gamma, const float* beta, float eps, int64_t rows, int64_t n,
                float* y, int64_t ld_y);
void attention(const AttentionArgs& a, int32_t head_begin, int32_t head_end);
void add_scaled_int8(const int8_t* row, float scale, int64_t n, float* out);
void rotate(float* x, const float* cosine, const float* sine, int64_t half, int64_t heads);
void gate(float* x, int64_t ld, int64_t rows, int64_t n, Activation activation);

}  // namespace kdnative::cpu::reference
