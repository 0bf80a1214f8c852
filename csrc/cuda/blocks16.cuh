// The product of blocks.cuh for blocks of 16 and many rows of x: so few outputs of one row of blocks use what is read
// of x that 8 rows of blocks share it.
//
// x comes whole, in pieces of kDepth inputs, through a ring of kStages stages in shared memory. Each of 8 warps goes
// through the list of one row of blocks, whose columns increase, and multiplies those of the stage that is there. The
// codes of a unit, 4 blocks, come straight into registers while the unit before is multiplied.
#pragma once
#include "copy_rows.cuh"
#include "gpu.h"
#include "transposed.cuh"
#include "unit_range.cuh"

namespace gpu {

template <int kRows_, int kDepth_, int kStages>
struct Blocks16Tile {
  static constexpr int kWarps = 8, kOutputs = kWarps * 16, kRows = kRows_, kDepth = kDepth_, kThreads = 32 * kWarps;
  static constexpr int kStageBytes = kRows * kDepth, kSharedBytes = kStages * kStageBytes;
  static constexpr int kStageBlocks = kDepth / 16;  // columns of blocks in a stage
  static constexpr int kTilesRows = kRows / 8;      // of one mma, for a warp
  using Rows = CopyRows<kRows, kDepth, kThreads>;
  using Finish = TransposedSums<1, kTilesRows, 1>;
  static_assert(kRows % 32 == 0 && kWarps * Finish::kWarpBytes <= kSharedBytes);

  static GPU_FN void run(const int8_t* x, const uint8_t* codes, const int32_t* columns, const int32_t* start, int units,
                         int k_pad, const Outputs& outputs) {
    const uint32_t shared = shared_base();
    const int lane = thread() & 31, warp = thread() >> 5, row0 = block_x() * kRows;
    const int list = block_y() * kWarps + warp;
    const UnitRange range(start, list, (outputs.n + 15) / 16, units);
    Rows copy_rows(x, row0, outputs.m, k_pad);

    const int stages = (k_pad + kDepth - 1) / kDepth;
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (s < stages) copy_rows.next(shared + s * kStageBytes);
      copy_commit();
    }
    int ready = 0;  // stages that have come; `current` is the last of them
    uint32_t current = shared + (kStages - 1) * kStageBytes;
    const auto advance = [&] {
      copy_wait<kStages - 2>();
      sync_threads();  // the stage has come for every thread, and every thread is done with the one overwritten next
      if (ready + kStages - 1 < stages) copy_rows.next(current);
      copy_commit();
      current = current + kStageBytes == shared + kSharedBytes ? shared : current + kStageBytes;
      ++ready;
    };

    int32_t sums[1][kTilesRows][4] = {};
    U4 next_codes[2] = {}, next_columns = {};
    const auto fetch = [&](int unit) {
      if (unit >= range.end) return;
      const uint8_t* const at = codes + static_cast<int64_t>(unit) * 1024 + lane * 16;
      next_codes[0] = load_global16_once(at), next_codes[1] = load_global16_once(at + 512);
      next_columns = load_global16(columns + static_cast<int64_t>(unit) * 4);
    };
    fetch(range.begin);
#pragma unroll 1
    for (int unit = range.begin; unit < range.end; ++unit) {
      const U4 low = next_codes[0], high = next_codes[1];
      // A lane's registers of each block, rows g and g + 8 of the product, and its column. Columns increase, but for
      // blocks of zeros that fill up the last unit: these multiply whatever stage there is.
      const U2 factors[4] = {{low.x, low.y}, {low.z, low.w}, {high.x, high.y}, {high.z, high.w}};
      const uint32_t columns_here[4] = {next_columns.x, next_columns.y, next_columns.z, next_columns.w};
      fetch(unit + 1);
#pragma unroll
      for (int slot = 0; slot < 4; ++slot) {
        const uint32_t column = columns_here[slot];
        while (column >= static_cast<uint32_t>(ready * kStageBlocks) && ready < stages) advance();
        const uint32_t x_lane = current + Rows::at(lane, column & (kStageBlocks - 1));
#pragma unroll
        for (int j = 0; j < kTilesRows; j += 4) {
          uint32_t rows[4];  // the 16 inputs of the block, of 8 rows of x each
          load_matrix_x4(rows, x_lane + j * 8 * kDepth);
#pragma unroll
          for (int i = 0; i < 4; ++i) mma_s8_half(sums[0][j + i], factors[slot].x, factors[slot].y, rows[i]);
        }
      }
    }
    while (ready < stages) advance();
    copy_wait<0>();
    sync_threads();
    Finish::finish(sums, shared, warp, 0, list * 16, row0, outputs);
  }
};

}  // namespace gpu
