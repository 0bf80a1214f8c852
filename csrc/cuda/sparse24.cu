// The kernels of the family sparse24. sparse24.h chooses among them.
#include "sparse24.cuh"

using Sparse24Large = gpu::Sparse24Tile<128, 128, 128, 2, 2, 1, 3>;
using Sparse24Medium = gpu::Sparse24Tile<64, 64, 128, 2, 2, 1, 3>;
using Sparse24Small = gpu::Sparse24Tile<32, 16, 256, 1, 1, 4, 6>;

#define SPARSE24_ARGUMENTS                                                                               \
  const int8_t *x, const float *scale_x, const uint8_t *weight, const float *scale_w, const float *bias, \
      const void *residual, void *out, int m, int n, int k_pad, int type, int activation, int whole
#define SPARSE24_GIVEN                                                     \
  x, weight, k_pad, gpu::Outputs{scale_x,                                  \
                                 scale_w,                                  \
                                 bias,                                     \
                                 residual,                                 \
                                 out,                                      \
                                 m,                                        \
                                 n,                                        \
                                 static_cast<gpu::DType>(type),            \
                                 static_cast<gpu::Activation>(activation), \
                                 whole != 0}

extern "C" GPU_KERNEL(Sparse24Large::kThreads, 2) sparse24_large(SPARSE24_ARGUMENTS) {
  Sparse24Large::run(SPARSE24_GIVEN);
}
extern "C" GPU_KERNEL(Sparse24Medium::kThreads, 4) sparse24_medium(SPARSE24_ARGUMENTS) {
  Sparse24Medium::run(SPARSE24_GIVEN);
}
extern "C" GPU_KERNEL(Sparse24Small::kThreads, 4) sparse24_small(SPARSE24_ARGUMENTS) {
  Sparse24Small::run(SPARSE24_GIVEN);
}
