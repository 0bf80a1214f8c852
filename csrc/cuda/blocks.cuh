// y [m, n] = x w^T of int8 rows and an int8 weight of which whole blocks of zeros are left out (blocks_layout.h), with
// int32 sums, and what follows an integer product (epilogue.cuh). The bits are those of the dense product.
//
// A block of threads computes kRows rows of x times one row of blocks, kSide outputs, as a tile of y^T = w x^T. It goes
// through the units of that row, kUnits for each stage of a ring of kStages, and gathers from x the 64 inputs that
// every unit needs. Its warps share the rows, and with kWarpsK > 1 the units of a stage.
//
// Rows of x lie k_pad bytes apart, a multiple of 128, with zeros from column k on. What a damaged weight may hold,
// starts and columns, is checked: such a weight gives wrong sums, and nothing outside of x and the weight is read.
#pragma once
#include "blocks_layout.h"
#include "gpu.h"
#include "transposed.cuh"
#include "unit_range.cuh"

namespace gpu {

template <int kSide_, int kRows_, int kUnits, int kWarpsRows, int kWarpsK, int kStages>
struct BlocksTile {
  static constexpr int kSide = kSide_, kRows = kRows_, kUnitK = BlocksLayout::kUnitK;
  static constexpr int kThreads = 32 * kWarpsRows * kWarpsK;
  static constexpr int kUnitBytes = kSide * kUnitK, kUnitBlocks = kUnitK / kSide;
  static constexpr int kDepth = kUnits * kUnitK, kWeightBytes = kUnits * kUnitBytes;
  static constexpr int kStageBytes = kWeightBytes + kRows * kDepth, kSharedBytes = kStages * kStageBytes;
  static constexpr int kTilesOutputs = kSide / 16, kTilesRows = kRows / kWarpsRows / 8;  // of one mma, for a warp
  using Finish = TransposedSums<kTilesOutputs, kTilesRows, kWarpsK>;
  static_assert(kUnits % kWarpsK == 0 && kThreads / 32 * Finish::kWarpBytes <= kSharedBytes);

  // Where chunk c of row r lies in a tile of x. ldmatrix reads 8 following rows at once: the swizzle puts their chunks
  // into 8 different groups of banks.
  static GPU_FN uint32_t x_at(int r, int c) { return r * kDepth + (c ^ (kUnits == 1 ? r >> 1 & 3 : r & 7)) * 16; }

  struct CopyCodes {
    static constexpr int kAll = kWeightBytes / 16, kCount = (kAll + kThreads - 1) / kThreads;
    const uint8_t* from;
    int left;  // chunks of the row of blocks from this thread's first on

    GPU_FN CopyCodes(const uint8_t* codes, int begin, int end)
        : from(codes + static_cast<int64_t>(begin) * kUnitBytes + thread() * 16),
          left((end - begin) * (kUnitBytes / 16) - thread()) {}
    GPU_FN void next(uint32_t stage) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (kAll % kThreads != 0 && i * kThreads + thread() >= kAll) break;
        const bool inside = kUnits == 1 || left > i * kThreads;  // the last stage may have fewer units
        copy_async16(stage + (i * kThreads + thread()) * 16, inside ? from + i * kThreads * 16 : from, inside ? 16 : 0);
      }
      from += kWeightBytes;
      left -= kAll;
    }
  };

  struct CopyRows {
    static constexpr int kChunks = kDepth / 16, kAtOnce = kThreads / kChunks, kCount = kRows / kAtOnce;
    static_assert(kThreads % kChunks == 0 && kRows % kAtOnce == 0);
    const int8_t* rows[kCount];
    bool inside[kCount];
    const int32_t* columns;  // of this thread's chunk in the next stage
    int left, blocks;        // units from there on; blocks in a row of x
    int column;              // of this thread's chunk in this stage, in blocks; < 0: there is none

    GPU_FN CopyRows(const int8_t* x, int row0, int m, int k_pad, const int32_t* all_columns, int begin, int end) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int row = row0 + i * kAtOnce + thread() / kChunks;
        inside[i] = row < m;
        rows[i] = x + static_cast<int64_t>(inside[i] ? row : 0) * k_pad;
      }
      const int chunk = thread() % kChunks, unit = begin + chunk / 4;
      columns = all_columns + static_cast<int64_t>(unit) * kUnitBlocks + chunk % 4 * 16 / kSide;
      left = end - unit;
      blocks = k_pad / kSide;
      look_ahead();
    }
    // Copies wait for the column, so it is read a stage earlier.
    GPU_FN void look_ahead() {
      column = left > 0 ? load_global(columns) : -1;
      columns += kUnits * kUnitBlocks;
      left -= kUnits;
    }
    GPU_FN void next(uint32_t tile) {
      const bool known = column >= 0 && column < blocks;
      const int offset = known ? column * kSide + thread() % 4 * 16 % kSide : 0;
#pragma unroll
      for (int i = 0; i < kCount; ++i)
        copy_async16(tile + x_at(i * kAtOnce + thread() / kChunks, thread() % kChunks), rows[i] + offset,
                     known && inside[i] ? 16 : 0);
      look_ahead();
    }
  };

  static GPU_FN void run(const int8_t* x, const uint8_t* codes, const int32_t* columns, const int32_t* start, int units,
                         int k_pad, const Outputs& outputs) {
    const uint32_t shared = shared_base();
    const int lane = thread() & 31, warp_k = (thread() >> 5) % kWarpsK, warp = (thread() >> 5) / kWarpsK;
    const int row0 = block_x() * kRows, row = warp * (kTilesRows * 8);
    const UnitRange range(start, block_y(), (outputs.n + kSide - 1) / kSide, units);
    const int begin = range.begin, end = range.end;
    CopyCodes copy_codes(codes, begin, end);
    CopyRows copy_rows(x, row0, outputs.m, k_pad, columns, begin, end);

    // Where this lane's codes, and its row of each ldmatrix are: eight rows of x at the first, second ... 16 inputs.
    uint32_t codes_lane[kUnits / kWarpsK], x_lane[kUnits / kWarpsK];
#pragma unroll
    for (int u = 0; u < kUnits / kWarpsK; ++u) {
      const int unit = u * kWarpsK + warp_k;
      codes_lane[u] = unit * kUnitBytes + lane * 16;
      x_lane[u] = kWeightBytes + x_at(row + (lane & 7), unit * 4 + (lane >> 3));
    }

    const int stages = (end - begin + kUnits - 1) / kUnits;
    int32_t sums[kTilesOutputs][kTilesRows][4] = {};
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (s < stages) {
        copy_codes.next(shared + s * kStageBytes);
        copy_rows.next(shared + s * kStageBytes + kWeightBytes);
      }
      copy_commit();
    }
    uint32_t full = shared, empty = shared + (kStages - 1) * kStageBytes;
    for (int s = 0; s < stages; ++s) {
      copy_wait<kStages - 2>();
      sync_threads();  // the stage has come for every thread, and every thread is done with the one overwritten next
      if (s + kStages - 1 < stages) copy_codes.next(empty), copy_rows.next(empty + kWeightBytes);
      copy_commit();
#pragma unroll
      for (int u = 0; u < kUnits / kWarpsK; ++u) {
        uint32_t factors[2][kTilesOutputs][4];
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int i = 0; i < kTilesOutputs; ++i) {
            const U4 four = load_shared16(full + codes_lane[u] + (half * kTilesOutputs + i) * 512);
            factors[half][i][0] = four.x, factors[half][i][1] = four.y;
            factors[half][i][2] = four.z, factors[half][i][3] = four.w;
          }
#pragma unroll
        for (int j = 0; j < kTilesRows; ++j) {
          uint32_t rows[4];
          load_matrix_x4(rows, full + x_lane[u] + j * 8 * kDepth);
#pragma unroll
          for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < kTilesOutputs; ++i)
              mma_s8(sums[i][j], factors[half][i], rows[half * 2], rows[half * 2 + 1]);
        }
      }
      empty = full;
      full = full + kStageBytes == shared + kSharedBytes ? shared : full + kStageBytes;
    }
    copy_wait<0>();
    sync_threads();
    Finish::finish(sums, shared, warp, warp_k, block_y() * kSide, row0 + row, outputs);
  }
};

}  // namespace gpu
