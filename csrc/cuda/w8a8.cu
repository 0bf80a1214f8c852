// The kernels of the family w8a8: a tile of w8a8.cuh for each type of output. w8a8.h chooses among them.
#include "w8a8.cuh"

// A stage less waits in shared memory on GPUs that have 100 KiB of it (sm_86, sm_89): two blocks fit there.
using W8A8_128x128 = gpu::W8A8Tile<128, 128, 64, 2, 4, 1, 4>;
using W8A8_128x128_short = gpu::W8A8Tile<128, 128, 64, 2, 4, 1, 3>;
using W8A8_64x64 = gpu::W8A8Tile<64, 64, 64, 2, 2, 1, 4>;
using W8A8_64x32 = gpu::W8A8Tile<64, 32, 128, 2, 1, 2, 4>;
using W8A8_16x32 = gpu::W8A8Tile<16, 32, 128, 1, 1, 4, 6>;

#define W8A8_KERNEL(tile, blocks, suffix, T)                                                               \
  extern "C" GPU_KERNEL(W8A8_##tile::kThreads, blocks)                                                              \
      w8a8_##tile##_##suffix(const int8_t* x, const float* scale_x, const int8_t* w, const float* scale_w,          \
                             const float* bias, const T* residual, T* out, int m, int n, int k_pad, int activation,
 int whole) {
   W8A8_##tile::run(x, w, k_pad,
                    gpu::Epilogue<T>{scale_x, scale_w, bias, residual, out, m, n,
                                     static_cast<gpu::Activation>(activation), whole != 0});
 }
#define W8A8_KERNELS(tile, blocks)           \
   W8A8_KERNEL(tile, blocks, f32, float)      \
   W8A8_KERNEL(tile, blocks, bf16, gpu::Bf16) \
   W8A8_KERNEL(tile, blocks, f16, gpu::Half)

 W8A8_KERNELS(128x128, 2)
 W8A8_KERNELS(128x128_short, 2)
 W8A8_KERNELS(64x64, 4)
 W8A8_KERNELS(64x32, 4)
 W8A8_KERNELS(16x32, 4)
