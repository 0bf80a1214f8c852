#include "../simd/vec_neon.h"

// Written against Vec, so it comes after it.
#include "../simd/encoder_impl.h"
#include "neon.h"

namespace kdnative::cpu::neon {

void layer_norm(const float* x, int64_t ld_x, const float* gamma, const float* beta, float eps, int64_t rows, int64_t n,
                float* y, int64_t ld_y) {
  layer_norm_impl(x, ld_x, gamma, beta, eps, rows, n, y, ld_y);
}

void attention(const AttentionArgs& a, int32_t head_begin, int32_t head_end) {
  attention_impl(a, head_begin, head_end);
}

void add_scaled_int8(const int8_t* row, float scale, int64_t n, float* out) {
  add_scaled_int8_impl(row, scale, n, out);
}

void rotate(float* x, const float* cosine, const float* sine, int64_t half, int64_t heads) {
  rotate_impl(x, cosine, sine, half, heads);
}

void gate(float* x, int64_t ld, int64_t rows, int64_t n, Activation activation) {
  gate_impl(x, ld, rows, n, activation);
}

}  // namespace kdnative::cpu::neon
