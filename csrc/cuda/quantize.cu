// The kernels of the family quantize: rows of up to 1,024 columns by a warp each, longer ones by a block. quantize.h
// chooses.
#include "quantize.cuh"

#define QUANTIZE_ARGUMENTS(T) \
  const T *x, const float *input_scale, int8_t *q, float *scale, int rows, int k, int k_pad, int whole
#define NORM_ARGUMENTS(T)                                                                             \
  const T *x, const T *added, T *sum, const float *gamma, const float *beta, float eps, int centered, \
      const float *input_scale, int8_t *q, float *scale, int rows, int k, int k_pad, int whole

extern "C" GPU_KERNEL(256, 2) quantize_warp_f32(QUANTIZE_ARGUMENTS(float)) {
  gpu::quantize_rows<float, 32, false>(x, input_scale, q, scale, rows, k, k_pad, whole, {});
}
extern "C" GPU_KERNEL(256, 2) norm_quantize_warp_f32(NORM_ARGUMENTS(float)) {
  gpu::quantize_rows<float, 32, true>(x, input_scale, q, scale, rows, k, k_pad, whole,
                                      {added, sum, gamma, beta, eps, centered != 0});
}
extern "C" GPU_KERNEL(256, 2) quantize_warp_bf16(QUANTIZE_ARGUMENTS(gpu::Bf16)) {
  gpu::quantize_rows<gpu::Bf16, 32, false>(x, input_scale, q, scale, rows, k, k_pad, whole, {});
}
extern "C" GPU_KERNEL(256, 2) norm_quantize_warp_bf16(NORM_ARGUMENTS(gpu::Bf16)) {
  gpu::quantize_rows<gpu::Bf16, 32, true>(x, input_scale, q, scale, rows, k, k_pad, whole,
                                          {added, sum, gamma, beta, eps, centered != 0});
}
extern "C" GPU_KERNEL(256, 2) quantize_warp_f16(QUANTIZE_ARGUMENTS(gpu::Half)) {
  gpu::quantize_rows<gpu::Half, 32, false>(x, input_scale, q, scale, rows, k, k_pad, whole, {});
}
extern "C" GPU_KERNEL(256, 2) norm_quantize_warp_f16(NORM_ARGUMENTS(gpu::Half)) {
  gpu::quantize_rows<gpu::Half, 32, true>(x, input_scale, q, scale, rows, k, k_pad, whole,
                                          {added, sum, gamma, beta, eps, centered != 0});
}
extern "C" GPU_KERNEL(256, 2) quantize_block_f32(QUANTIZE_ARGUMENTS(float)) {
  gpu::quantize_rows<float, 256, false>(x, input_scale, q, scale, rows, k, k_pad, whole, {});
}
extern "C" GPU_KERNEL(256, 2) norm_quantize_block_f32(NORM_ARGUMENTS(float)) {
  gpu::quantize_rows<float, 256, true>(x, input_scale, q, scale, rows, k, k_pad, whole,
                                       {added, sum, gamma, beta, eps, centered != 0});
}
extern "C" GPU_KERNEL(256, 2) quantize_block_bf16(QUANTIZE_ARGUMENTS(gpu::Bf16)) {
  gpu::quantize_rows<gpu::Bf16, 256, false>(x, input_scale, q, scale, rows, k, k_pad, whole, {});
}
extern "C" GPU_KERNEL(256, 2) norm_quantize_block_bf16(NORM_ARGUMENTS(gpu::Bf16)) {
  gpu::quantize_rows<gpu::Bf16, 256, true>(x, input_scale, q, scale, rows, k, k_pad, whole,
                                           {added, sum, gamma, beta, eps, centered != 0});
}
extern "C" GPU_KERNEL(256, 2) quantize_block_f16(QUANTIZE_ARGUMENTS(gpu::Half)) {
  gpu::quantize_rows<gpu::Half, 256, false>(x, input_scale, q, scale, rows, k, k_pad, whole, {});
}
extern "C" GPU_KERNEL(256, 2) norm_quantize_block_f16(NORM_ARGUMENTS(gpu::Half)) {
  gpu::quantize_rows<gpu::Half, 256, true>(x, input_scale, q, scale, rows, k, k_pad, whole,
                                           {added, sum, gamma, beta, eps, centered != 0});
}
