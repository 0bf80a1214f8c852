// The kernels of the family sparse24: each tile for each type of output. sparse24.h chooses among them.
#include "sparse24.cuh"

#define SPARSE24_KERNEL(Tile, blocks, name, T)                                                                    \
  extern "C" GPU_KERNEL(gpu::Tile::kThreads, blocks)                                                              \
      name(const int8_t* x, const float* scale_x, const uint8_t* weight, const float* scale_w, const float* bias, \
           const T* residual, T* out, int m, int n, int k_pad, int activation, int whole) {                       \
    gpu::Tile::run(weight, x, k_pad,                                                                              \
                   gpu::Epilogue<T>{scale_x, scale_w, bias, residual, out, m, n,                                  \
                                    static_cast<gpu::Activation>(activation), whole != 0});                       \
  }
#define SPARSE24_KERNELS(Tile, blocks, name)            \
  SPARSE24_KERNEL(Tile, blocks, name##_f32, float)      \
  SPARSE24_KERNEL(Tile, blocks, name##_bf16, gpu::Bf16) \
  SPARSE24_KERNEL(Tile, blocks, name##_f16, gpu::Half)

SPARSE24_KERNELS(Sparse24Large, 2, sparse24_large)
SPARSE24_KERNELS(Sparse24Medium, 4, sparse24_medium)
SPARSE24_KERNELS(Sparse24Small, 4, sparse24_small)
