// y [m, n] = x w^T of int8 rows with int32 sums, and what follows an integer product (epilogue.cuh).
//
// A block computes a tile of kBm rows of x and kBn rows of w, its columns of y. Pieces of kBk bytes of k come through a
// ring of kStages stages in shared memory by asynchronous copies. Its warps share the tile kWarpsM x kWarpsN, and with
// kWarpsK > 1 also the k of every stage: few rows leave too little for each warp otherwise. int32 sums are the same in
// any order.
//
// Rows of both lie k_pad bytes apart, a multiple of 128, with zeros from column k on: no copy has to look at k.
#pragma once
#include "epilogue.cuh"
#include "gpu.h"

namespace gpu {

template <int kBm_, int kBn_, int kBk_, int kWarpsM, int kWarpsN, int kWarpsK, int kStages>
struct W8A8Tile {
  static constexpr int kBm = kBm_, kBn = kBn_, kBk = kBk_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN * kWarpsK;
  static constexpr int kStageBytes = (kBm + kBn) * kBk;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static constexpr int kChunks = kBk / 16;                                         // of 16 bytes, in the row of a stage
  static constexpr int kTilesM = kBm / kWarpsM / 16, kTilesN = kBn / kWarpsN / 8;  // of one mma, for a warp
  static constexpr int kSteps = kBk / 32;                                          // of one mma, in a stage
  // Of the sums of a warp, so many tiles of 16 rows fit into the stages at once.
  static constexpr int kTilesAtOnce = kThreads * kTilesN * kTilesM * 16 <= kSharedBytes ? kTilesM : kTilesM / 2;
  static_assert(kTilesN % 2 == 0 && kSteps % kWarpsK == 0 && (kChunks == 4 || kChunks == 8));
  static_assert(kWarpsK == 1 || kTilesAtOnce == kTilesM);  // warps that share k read each other's sums once
  static_assert(kTilesM % kTilesAtOnce == 0 && kThreads * kTilesN * kTilesAtOnce * 16 <= kSharedBytes);

  // Where chunk c of row r lies in a tile of x. ldmatrix reads 8 following rows at once: the swizzle puts their
  // chunks into 8 different groups of banks.
  static GPU_FN uint32_t x_at(int r, int c) {
    const int key = kChunks == 4 ? r >> 1 & 3 : r & 7;
    return r * kBk + (c ^ key) * 16;
  }
  // The same in a tile of w, of which ldmatrix reads rows 0, 1, 4, 5, 8, 9, 12, 13 or those two further at once.
  static GPU_FN uint32_t w_at(int r, int c) {
    const int key = kChunks == 4 ? r >> 2 & 3 : (r & 1) | (r >> 1 & 6);
    return r * kBk + (c ^ key) * 16;
  }

  // The chunks of a tile of x or w that this thread copies.
  template <int kRows>
  struct Copies {
    static constexpr int kCount = (kRows * kChunks + kThreads - 1) / kThreads;
    const int8_t* from[kCount];
    uint32_t to[kCount];
    int bytes[kCount];  // 0: the row is none of the matrix, and zeros are written

    template <typename Place>
    GPU_FN Copies(const int8_t* matrix, int row0, int rows, int k_pad, Place place) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int at = i * kThreads + thread(), r = at / kChunks, c = at % kChunks;
        const bool inside = row0 + r < rows;
        from[i] = matrix + (inside ? static_cast<int64_t>(row0 + r) * k_pad + c * 16 : 0);
        to[i] = place(r, c);
        bytes[i] = inside ? 16 : 0;
      }
    }
    GPU_FN void next(uint32_t tile) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (kRows * kChunks % kThreads != 0 && i * kThreads + thread() >= kRows * kChunks) break;
        copy_async16(tile + to[i], from[i], bytes[i]);
        from[i] += kBk;
      }
    }
  };

  // Blocks take tiles in groups of kGroup tiles of rows, and in a group all rows of one tile of w first: blocks that
  // run at a time then share both.
  static constexpr int kGroup = 16;
  static GPU_FN void tile_of(int block, int m, int n, int& tile_m, int& tile_n) {
    const int tiles_m = (m + kBm - 1) / kBm, tiles_n = (n + kBn - 1) / kBn;
    const int first = block / (kGroup * tiles_n) * kGroup;
    const int height = tiles_m - first < kGroup ? tiles_m - first : kGroup;
    const int inside = block - first * tiles_n;
    tile_m = first + inside % height;
    tile_n = inside / height;
  }

  template <typename T>
  static GPU_FN void run(const int8_t* x, const int8_t* w, int k_pad, const Epilogue<T>& epilogue) {
    const uint32_t shared = shared_base();
    const int lane = thread() & 31, warp = thread() >> 5;
    const int warp_k = warp % kWarpsK, warp_mn = warp / kWarpsK;
    const int row = warp_mn / kWarpsN * (kTilesM * 16), column = warp_mn % kWarpsN * (kTilesN * 8);
    int tile_m, tile_n;
    tile_of(block_x(), epilogue.m, epilogue.n, tile_m, tile_n);
    Copies<kBm> copy_x(x, tile_m * kBm, epilogue.m, k_pad, x_at);
    Copies<kBn> copy_w(w, tile_n * kBn, epilogue.n, k_pad, w_at);

    // Where this lane's row of each ldmatrix is, for the steps of its warp. Of x: rows 0..7, 8..15, then both 16 bytes
    // on. Of w: the rows for eight columns of an mma at k and 16 bytes on, then those for the other eight. Column c of
    // the first mma is row c / 2 * 4 + c % 2 of w, of the second two rows further, so that a lane's sums of both are
    // four columns of y that follow each other.
    uint32_t x_lane[kSteps / kWarpsK], w_lane[kSteps / kWarpsK];
#pragma unroll
    for (int s = 0; s < kSteps / kWarpsK; ++s) {
      const int step = s * kWarpsK + warp_k;
      x_lane[s] = x_at(row + (lane & 15), step * 2 + (lane >> 4));
      w_lane[s] = kBm * kBk + w_at(column + (lane & 6) * 2 + (lane >> 4) * 2 + (lane & 1), step * 2 + (lane >> 3 & 1));
    }

    const int stages = k_pad / kBk;
    int32_t sums[kTilesM][kTilesN][4] = {};
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (s < stages) copy_x.next(shared + s * kStageBytes), copy_w.next(shared + s * kStageBytes + kBm * kBk);
      copy_commit();
    }
    uint32_t full = shared, empty = shared + (kStages - 1) * kStageBytes;
    for (int s = 0; s < stages; ++s) {
      copy_wait<kStages - 2>();
      sync_threads();  // the stage has come for every thread, and every thread is done with the one overwritten next
      if (s + kStages - 1 < stages) copy_x.next(empty), copy_w.next(empty + kBm * kBk);
      copy_commit();
#pragma unroll
      for (int step = 0; step < kSteps / kWarpsK; ++step) {
        uint32_t xs[kTilesM][4], ws[kTilesN / 2][4];
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) load_matrix_x4(xs[i], full + x_lane[step] + i * 16 * kBk);
#pragma unroll
        for (int j = 0; j < kTilesN / 2; ++j) load_matrix_x4(ws[j], full + w_lane[step] + j * 16 * kBk);
#pragma unroll
        for (int i = 0; i < kTilesM; ++i)
#pragma unroll
          for (int j = 0; j < kTilesN; ++j) mma_s8(sums[i][j], xs[i], ws[j / 2][j % 2 * 2], ws[j / 2][j % 2 * 2 + 1]);
      }
      empty = full;
      full = full + kStageBytes == shared + kSharedBytes ? shared : full + kStageBytes;
    }
    copy_wait<0>();
    sync_threads();
    finish(shared, tile_m * kBm + row, tile_n * kBn + column, sums, epilogue);
  }

  // The sums go through shared memory so that a loop, not 16 copies of an epilogue, finishes them: each thread reads
  // what it has written itself, or with kWarpsK > 1 what the warps of the same columns have.
  template <typename T>
  static GPU_FN void finish(uint32_t shared, int row0, int column0, const int32_t (&sums)[kTilesM][kTilesN][4],
                            const Epilogue<T>& epilogue) {
    const int lane = thread() & 31, warp_k = (thread() >> 5) % kWarpsK, warp_mn = (thread() >> 5) / kWarpsK;
    constexpr int kAtOnce = kTilesAtOnce * kTilesN;  // quads
    const uint32_t mine = shared + (warp_mn * kWarpsK * kAtOnce * 32 + lane) * 16;
    const auto slot = [&](int k, int quad) { return mine + (k * kAtOnce + quad) * 32 * 16; };
#pragma unroll
    for (int first = 0; first < kTilesM; first += kTilesAtOnce) {
#pragma unroll
      for (int i = 0; i < kTilesAtOnce; ++i)
#pragma unroll
        for (int j = 0; j < kTilesN; ++j) {
          const int32_t (&left)[4] = sums[first + i][j / 2 * 2], (&right)[4] = sums[first + i][j / 2 * 2 + 1];
          const int h = j % 2 * 2;  // the row of the lane, or the one 8 further
          store_shared16(slot(warp_k, i * kTilesN + j),
                         U4{static_cast<uint32_t>(left[h]), static_cast<uint32_t>(left[h + 1]),
                            static_cast<uint32_t>(right[h]), static_cast<uint32_t>(right[h + 1])});
        }
      if (kWarpsK > 1) sync_threads();
#pragma unroll 1
      for (int quad = warp_k; quad < kAtOnce; quad += kWarpsK) {
        int32_t sum[4] = {};
#pragma unroll
        for (int k = 0; k < kWarpsK; ++k) {
          const U4 part = load_shared16(slot(k, quad));
          sum[0] += part.x, sum[1] += part.y, sum[2] += part.z, sum[3] += part.w;
        }
        const int i = quad / kTilesN, j = quad % kTilesN;
        epilogue.store(row0 + (first + i) * 16 + j % 2 * 8 + (lane >> 2), column0 + j / 2 * 16 + (lane & 3) * 4, sum);
      }
    }
  }

  // The kernel with its plain arguments, see W8A8 in w8a8.h.
  template <typename T>
  static GPU_FN void product(const int8_t* x, const float* scale_x, const int8_t* w, const float* scale_w,
                             const float* bias, const T* residual, T* out, int m, int n, int k_pad, int activation,
                             int whole) {
    run(x, w, k_pad,
        Epilogue<T>{scale_x, scale_w, bias, residual, out, m, n, static_cast<Activation>(activation), whole != 0});
  }
};

}  // namespace gpu
