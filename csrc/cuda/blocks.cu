// The kernels of the family blocks: each side of a block, for many or few rows and each type of output. blocks.h
// chooses among them.
#include "blocks.cuh"

#define BLOCKS_KERNEL(Tile, blocks, name, T)                                                                          \
  extern "C" GPU_KERNEL(gpu::Tile::kThreads, blocks)                                                                  \
      name(const int8_t* x, const float* scale_x, const uint8_t* codes, const int32_t* columns, const int32_t* start, \
           int units, const float* scale_w, const float* bias, const T* residual, T* out, int m, int n, int k_pad,    \
           int activation, int whole) {                                                                               \
    gpu::Tile::run(codes, columns, start, units, x, k_pad,                                                            \
                   gpu::Epilogue<T>{scale_x, scale_w, bias, residual, out, m, n,                                      \
                                    static_cast<gpu::Activation>(activation), whole != 0});                           \
  }
#define BLOCKS_KERNELS(Tile, blocks, name)            \
  BLOCKS_KERNEL(Tile, blocks, name##_f32, float)      \
  BLOCKS_KERNEL(Tile, blocks, name##_bf16, gpu::Bf16) \
  BLOCKS_KERNEL(Tile, blocks, name##_f16, gpu::Half)

BLOCKS_KERNELS(BlocksMany<64>, 2, blocks64_many)
BLOCKS_KERNELS(BlocksMany<32>, 4, blocks32_many)
BLOCKS_KERNELS(BlocksMany<16>, 4, blocks16_many)
BLOCKS_KERNELS(BlocksFew<64>, 2, blocks64_few)
BLOCKS_KERNELS(BlocksFew<32>, 2, blocks32_few)
BLOCKS_KERNELS(BlocksFew<16>, 4, blocks16_few)
