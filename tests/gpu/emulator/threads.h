// Who a thread is, and how threads wait for and speak to each other. Emulated half of csrc/cuda/gpu/threads.h.
#pragma once

#include "machine.h"
#include "shadow.h"

namespace gpu {

inline int thread() { return emulator::machine->now->id; }
inline int block_x() { return emulator::machine->block_x; }
inline int block_y() { return emulator::machine->block_y; }
inline int block_z() { return emulator::machine->block_z; }
inline int grid_x() { return emulator::machine->grid_x; }
inline int grid_y() { return emulator::machine->grid_y; }
inline int grid_z() { return emulator::machine->grid_z; }
inline uint32_t shared_base() { return 0; }

inline void sync_threads(emulator::Where where = emulator::Where::current()) { emulator::block_barrier(where); }

inline void sync_warp(emulator::Where where = emulator::Where::current()) {
  const int warp = emulator::machine->now->warp;
  emulator::collective("bar.warp.sync", nullptr, where, [warp](void**) { ++emulator::machine->warps[warp].sync; });
}

inline void fence_global() { emulator::note_fence(); }

namespace emulator {
// Every lane gets the value of lane source(lane, its operand).
template <typename Source>
uint32_t shuffle(const char* name, uint32_t v, int operand, const Where& where, Source source) {
  struct Operands {
    uint32_t v, result;
    int operand;
  } mine{v, 0, operand};
  collective(name, &mine, where, [source](void** lanes) {
    for (int l = 0; l < 32; ++l) {
      Operands& o = *static_cast<Operands*>(lanes[l]);
      o.result = static_cast<Operands*>(lanes[source(l, o.operand)])->v;
    }
  });
  return mine.result;
}
}  // namespace emulator

inline uint32_t shuffle_xor(uint32_t v, int mask, emulator::Where where = emulator::Where::current()) {
  return emulator::shuffle("shfl.sync.bfly", v, mask, where, [](int lane, int m) { return lane ^ (m & 31); });
}
inline uint32_t shuffle_from(uint32_t v, int from, emulator::Where where = emulator::Where::current()) {
  return emulator::shuffle("shfl.sync.idx", v, from, where, [](int, int f) { return f & 31; });
}

}  // namespace gpu
