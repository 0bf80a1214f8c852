// Asynchronous copies from global to shared memory. Device half.
#pragma once

#include "gpu/values.h"

namespace gpu {

// cp.async.cg.shared.global 16: the first `bytes` of 16 from `from`, and zeros after. With bytes 0 nothing is read.
GPU_FN void copy_async16(uint32_t to, const void* from, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// cp.async.commit_group: the copies of this thread since the last group.
GPU_FN void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// cp.async.wait_group: until at most kPending groups of this thread are under way. Others see the bytes after a
// barrier.
template <int kPending>
GPU_FN void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace gpu
