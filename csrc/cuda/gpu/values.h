// Types that both halves of the dialect share, and how functions are declared.
#pragma once

#ifdef __CUDACC_RTC__  // NVRTC comes without headers
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <cstdint>
#endif

#ifdef __CUDACC__
#define GPU_FN __device__ __forceinline__
// extern "C" GPU_KERNEL(threads of a block, blocks that a multiprocessor should hold at least) name(arguments) { ... }
#define GPU_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#else
#define GPU_FN inline __attribute__((always_inline))
#define GPU_KERNEL(threads, blocks) void
#endif

namespace gpu {

struct alignas(8) U2 {
  uint32_t x, y;
};
struct alignas(16) U4 {
  uint32_t x, y, z, w;
};

// 16-bit floats are bits here: CUDA's own types are not to be had on a CPU. A pair in 32 bits has the first in the low
// half.
struct Half {
  uint16_t bits;
};
struct Bf16 {
  uint16_t bits;
};

}  // namespace gpu
