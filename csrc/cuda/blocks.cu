// The kernels of the family blocks: each side of a block, for many or few rows. blocks.h chooses among them.
#include "blocks.cuh"
#include "blocks16.cuh"

using Blocks64Many = gpu::BlocksTile<64, 128, 1, 4, 1, 4>;
using Blocks32Many = gpu::BlocksTile<32, 128, 1, 4, 1, 4>;
using Blocks16Many = gpu::Blocks16Tile<128, 128, 4>;
using Blocks64Few = gpu::BlocksTile<64, 16, 4, 1, 4, 4>;
using Blocks32Few = gpu::BlocksTile<32, 16, 4, 1, 4, 4>;
using Blocks16Few = gpu::BlocksTile<16, 16, 4, 1, 4, 4>;

#define BLOCKS_ARGUMENTS                                                                                            \
  const int8_t *x, const float *scale_x, const uint8_t *codes, const int32_t *columns, const int32_t *start,        \
      int units, const float *scale_w, const float *bias, const void *residual, void *out, int m, int n, int k_pad, \
      int type, int activation, int whole
#define BLOCKS_GIVEN                                                                             \
  x, codes, columns, start, units, k_pad, gpu::Outputs{scale_x,                                  \
                                                       scale_w,                                  \
                                                       bias,                                     \
                                                       residual,                                 \
                                                       out,                                      \
                                                       m,                                        \
                                                       n,                                        \
                                                       static_cast<gpu::DType>(type),            \
                                                       static_cast<gpu::Activation>(activation), \
                                                       whole != 0}

extern "C" GPU_KERNEL(Blocks64Many::kThreads, 2) blocks64_many(BLOCKS_ARGUMENTS) { Blocks64Many::run(BLOCKS_GIVEN); }
extern "C" GPU_KERNEL(Blocks32Many::kThreads, 4) blocks32_many(BLOCKS_ARGUMENTS) { Blocks32Many::run(BLOCKS_GIVEN); }
extern "C" GPU_KERNEL(Blocks16Many::kThreads, 2) blocks16_many(BLOCKS_ARGUMENTS) { Blocks16Many::run(BLOCKS_GIVEN); }
extern "C" GPU_KERNEL(Blocks64Few::kThreads, 2) blocks64_few(BLOCKS_ARGUMENTS) { Blocks64Few::run(BLOCKS_GIVEN); }
extern "C" GPU_KERNEL(Blocks32Few::kThreads, 2) blocks32_few(BLOCKS_ARGUMENTS) { Blocks32Few::run(BLOCKS_GIVEN); }
extern "C" GPU_KERNEL(Blocks16Few::kThreads, 4) blocks16_few(BLOCKS_ARGUMENTS) { Blocks16Few::run(BLOCKS_GIVEN); }
