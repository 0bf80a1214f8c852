// Copies of a tile of int8 rows into stages of shared memory, as ldmatrix reads them.
#pragma once
#include "gpu.h"

namespace gpu {

// kRows rows, kDepth bytes of each for a stage. Rows lie k_pad bytes apart, a multiple of 128.
template <int kRows, int kDepth, int kThreads>
struct CopyRows {
  static constexpr int kChunks = kDepth / 16, kAtOnce = kThreads / kChunks, kCount = kRows / kAtOnce;
  static_assert(kDepth % 128 == 0 && kThreads % kChunks == 0 && kRows % kAtOnce == 0);

  // Where chunk c of row r lies in a tile. ldmatrix reads 8 following rows at once: the swizzle puts their chunks into
  // 8 different groups of banks.
  static GPU_FN uint32_t at(int r, int c) { return r * kDepth + (c ^ (r & 7)) * 16; }

  const int8_t* from[kCount];
  int bytes[kCount];  // 0: the row is none of x, and zeros are written
  int left;           // columns from this thread's chunk on

  GPU_FN CopyRows(const int8_t* x, int row0, int rows, int k_pad) : left(k_pad - thread() % kChunks * 16) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int row = row0 + i * kAtOnce + thread() / kChunks;
      const bool inside = row < rows;
      from[i] = x + (inside ? static_cast<int64_t>(row) * k_pad + thread() % kChunks * 16 : 0);
      bytes[i] = inside ? 16 : 0;
    }
  }
  GPU_FN void next(uint32_t tile) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      // A stage may be deeper than the padding of x.
      copy_async16(tile + at(i * kAtOnce + thread() / kChunks, thread() % kChunks), from[i],
                   kDepth == 128 || left > 0 ? bytes[i] : 0);
      from[i] += kDepth;
    }
    left -= kDepth;
  }
};

}  // namespace gpu
