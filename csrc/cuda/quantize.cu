// The kernels of the family quantize: rows of up to 1,024 columns by a warp each, longer ones by a block. quantize.h
// chooses.
#include "quantize.cuh"

#define QUANTIZE_KERNELS(name, threads, suffix, T)                                                                \
  extern "C" GPU_KERNEL(256, 2) quantize_##name##_##suffix(const T* x, const float* input_scale, int8_t* q,       \
                                                           float* scale, int rows, int k, int k_pad, int whole) { \
    gpu::quantize_rows<T, threads, false>(x, input_scale, q, scale, rows, k, k_pad, whole != 0, {});              \
  }                                                                                                               \
  extern "C" GPU_KERNEL(256, 2) norm_quantize_##name##_##suffix(                                                  \
      const T* x, const T* added, T* sum, const float* gamma, const float* beta, float eps, int centered,         \
      const float* input_scale, int8_t* q, float* scale, int rows, int k, int k_pad, int whole) {                 \
    const gpu::RowNorm<T> norm{added, sum, gamma, beta, eps, centered != 0};                                      \
    gpu::quantize_rows<T, threads, true>(x, input_scale, q, scale, rows, k, k_pad, whole != 0, norm);             \
  }

QUANTIZE_KERNELS(warp, 32, f32, float)
QUANTIZE_KERNELS(warp, 32, bf16, gpu::Bf16)
QUANTIZE_KERNELS(warp, 32, f16, gpu::Half)
QUANTIZE_KERNELS(block, 256, f32, float)
QUANTIZE_KERNELS(block, 256, bf16, gpu::Bf16)
QUANTIZE_KERNELS(block, 256, f16, gpu::Half)
