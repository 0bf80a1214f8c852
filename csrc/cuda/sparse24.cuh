// y [m, n] = x w^T of int8 rows and an int8 weight of which two of four consecutive inputs are kept
// (sparse24_layout.h), with int32 sums, and what follows an integer product (epilogue.cuh). The bits are those of the
// dense product.
//
// Sparse tensor cores take the sparse factor on the left, so a block computes a tile of y^T = w x^T: outputs are the
// rows of the product, rows of x its columns. Pieces of k come through a ring of kStages stages in shared memory. The
// warps of a block share the tile kWarpsOutputs x kWarpsRows, and with kWarpsK > 1 also the k of every stage.
//
// Rows of x lie k_pad bytes apart, a multiple of 128, with zeros from column k on.
#pragma once
#include "copy_rows.cuh"
#include "gpu.h"
#include "sparse24_layout.h"
#include "transposed.cuh"

namespace gpu {

template <int kOutputs_, int kRows_, int kDepth_, int kWarpsOutputs, int kWarpsRows, int kWarpsK, int kStages>
struct Sparse24Tile {
  using Layout = Sparse24Layout;
  static constexpr int kOutputs = kOutputs_, kRows = kRows_, kDepth = kDepth_;
  static constexpr int kThreads = 32 * kWarpsOutputs * kWarpsRows * kWarpsK;
  static constexpr int kSteps = kDepth / Layout::kTileK;         // of one mma, in a stage
  static constexpr int kRunBytes = kSteps * Layout::kTileBytes;  // of 16 outputs in a stage; they follow each other
  static constexpr int kWeightBytes = kOutputs / 16 * kRunBytes;
  static constexpr int kStageBytes = kWeightBytes + kRows * kDepth;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static constexpr int kTilesOutputs = kOutputs / kWarpsOutputs / 16;  // of one mma, for a warp
  static constexpr int kTilesRows = kRows / kWarpsRows / 8;
  using Rows = CopyRows<kRows, kDepth, kThreads>;
  using Finish = TransposedSums<kTilesOutputs, kTilesRows, kWarpsK>;
  static_assert(kDepth % 128 == 0 && Layout::kPadK % kDepth == 0 && kSteps % kWarpsK == 0);
  static_assert(kThreads / 32 * Finish::kWarpBytes <= kSharedBytes);

  struct CopyWeight {
    static constexpr int kChunks = kRunBytes / 16, kAll = kOutputs / 16 * kChunks;
    static constexpr int kCount = (kAll + kThreads - 1) / kThreads;
    const uint8_t* from[kCount];

    GPU_FN CopyWeight(const uint8_t* weight, int output0, int n, int k_pad) {
      const int last = (n - 1) / 16;
      const int64_t row_bytes =
          (k_pad + Layout::kPadK - 1) / Layout::kPadK * (Layout::kPadK / Layout::kTileK) * Layout::kTileBytes;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int at = i * kThreads + thread(), run = output0 / 16 + at / kChunks;
        // Outputs beyond the last are those of the last again, not zeros: zeros are no metadata.
        from[i] = weight + (run < last ? run : last) * row_bytes + at % kChunks * 16;
      }
    }
    GPU_FN void next(uint32_t stage) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int at = i * kThreads + thread();
        if (kAll % kThreads != 0 && at >= kAll) break;
        copy_async16(stage + at * 16, from[i], 16);
        from[i] += kRunBytes;
      }
    }
  };

  static GPU_FN void run(const int8_t* x, const uint8_t* weight, int k_pad, const Outputs& outputs) {
    const uint32_t shared = shared_base();
    const int lane = thread() & 31, warp_k = (thread() >> 5) % kWarpsK, warp = (thread() >> 5) / kWarpsK;
    const int output = warp / kWarpsRows * (kTilesOutputs * 16), row = warp % kWarpsRows * (kTilesRows * 8);
    const int output0 = block_y() * kOutputs, row0 = block_x() * kRows;
    CopyWeight copy_weight(weight, output0, outputs.n, k_pad);
    Rows copy_rows(x, row0, outputs.m, k_pad);

    // Where this lane's codes and metadata, and its row of each ldmatrix are: eight rows of x at k, and 16, 32 and 48
    // bytes on.
    uint32_t weight_lane[kSteps / kWarpsK], x_lane[kSteps / kWarpsK];
#pragma unroll
    for (int s = 0; s < kSteps / kWarpsK; ++s) {
      const int step = s * kWarpsK + warp_k;
      weight_lane[s] = output / 16 * kRunBytes + step * Layout::kTileBytes;
      x_lane[s] = kWeightBytes + Rows::at(row + (lane & 7), step * 4 + (lane >> 3));
    }

    const int stages = (k_pad + kDepth - 1) / kDepth;
    int32_t sums[kTilesOutputs][kTilesRows][4] = {};
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (s < stages) {
        copy_weight.next(shared + s * kStageBytes);
        copy_rows.next(shared + s * kStageBytes + kWeightBytes);
      }
      copy_commit();
    }
    uint32_t full = shared, empty = shared + (kStages - 1) * kStageBytes;
    for (int s = 0; s < stages; ++s) {
      copy_wait<kStages - 2>();
      sync_threads();  // the stage has come for every thread, and every thread is done with the one overwritten next
      if (s + kStages - 1 < stages) copy_weight.next(empty), copy_rows.next(empty + kWeightBytes);
      copy_commit();
#pragma unroll
      for (int step = 0; step < kSteps / kWarpsK; ++step) {
        uint32_t codes[kTilesOutputs][4], places[kTilesOutputs];
#pragma unroll
        for (int i = 0; i < kTilesOutputs; ++i) {
          const uint32_t tile = full + weight_lane[step] + i * kRunBytes;
          const U4 four = load_shared16(tile + lane * 16);
          codes[i][0] = four.x, codes[i][1] = four.y, codes[i][2] = four.z, codes[i][3] = four.w;
          places[i] = load_shared4(tile + Layout::kCodeBytes + lane * 4);
        }
#pragma unroll
        for (int j = 0; j < kTilesRows; ++j) {
          uint32_t rows[4];
          load_matrix_x4(rows, full + x_lane[step] + j * 8 * kDepth);
#pragma unroll
          for (int i = 0; i < kTilesOutputs; ++i) mma_sparse_s8(sums[i][j], codes[i], rows, places[i]);
        }
      }
      empty = full;
      full = full + kStageBytes == shared + kSharedBytes ? shared : full + kStageBytes;
    }
    copy_wait<0>();
    sync_threads();
    Finish::finish(sums, shared, warp, warp_k, output0 + output, row0 + row, outputs);
  }
};

}  // namespace gpu
