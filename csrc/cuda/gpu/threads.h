// Who a thread is, and how threads wait for and speak to each other. Device half.
#pragma once

#include "gpu/values.h"

namespace gpu {

// mov.u32 %tid.x
GPU_FN int thread() { return threadIdx.x; }
// mov.u32 %ctaid.x
GPU_FN int block_x() { return blockIdx.x; }
// mov.u32 %ctaid.y
GPU_FN int block_y() { return blockIdx.y; }
// mov.u32 %ctaid.z
GPU_FN int block_z() { return blockIdx.z; }
// mov.u32 %nctaid.x
GPU_FN int grid_x() { return gridDim.x; }
// mov.u32 %nctaid.y
GPU_FN int grid_y() { return gridDim.y; }
// mov.u32 %nctaid.z
GPU_FN int grid_z() { return gridDim.z; }

// cvta.to.shared: where the shared memory of the launch begins, on 1,024 bytes.
GPU_FN uint32_t shared_base() {
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared_bytes));
}

// bar.sync: all threads of the block.
GPU_FN void sync_threads() { asm volatile("bar.sync 0;" ::: "memory"); }

// bar.warp.sync: all 32 lanes; the only instruction of a warp that orders memory.
GPU_FN void sync_warp() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

// membar.gl: what this thread wrote or saw before is seen by other blocks before what it writes after.
GPU_FN void fence_global() { asm volatile("membar.gl;" ::: "memory"); }

// shfl.sync.bfly.b32: the value of lane (own ^ mask).
GPU_FN uint32_t shuffle_xor(uint32_t v, int mask) {
  uint32_t r;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(r) : "r"(v), "r"(mask));
  return r;
}

// shfl.sync.idx.b32: the value of lane `from` (its low 5 bits).
GPU_FN uint32_t shuffle_from(uint32_t v, int from) {
  uint32_t r;
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(r) : "r"(v), "r"(from));
  return r;
}

}  // namespace gpu
