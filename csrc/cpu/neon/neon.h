// What this folder provides; table.cpp puts the functions in the table. Meanings and exactness: ../kernels.h.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu::neon {

void quantize_rows(const void* x, DType type, int64_t ld_x, int64_t rows, int64_t k, int64_t k_pad, int8_t* q,
                   int64_t ld_q, float* scale, int32_t* group_sum);
void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);
void convert_rows(const void* x, DType type, int64_t ld_x, int64_t rows, int64_t k, void* out, DType out_type,
                  int64_t ld_out);
void gemm_a16(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& r);
void layer_norm(const float* x, int64_t ld_x, const float* gamma, const float* beta, float eps, int64_t rows, int64_t n,
                float* y, int64_t ld_y);
void attention(const AttentionArgs& a, int32_t head_begin, int32_t head_end);
void add_scaled_int8(const int8_t* row, float scale, int64_t n, float* out);
void rotate(float* x, const float* cosine, const float* sine, int64_t half, int64_t heads);
void gate(float* x, int64_t ld, int64_t rows, int64_t n, Activation activation);

}  // namespace kdnative::cpu::neon
