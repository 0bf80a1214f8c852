// What follows a product y^T = W x^T of int8 fragments: four outputs of one row of x for each call of the epilogue.
//
// mma gives a lane two rows and two columns of the product. The weights are packed so that these rows, g and g + 8 of
// 16, are the outputs 2 g and 2 g + 1; the lanes of g and g ^ 1 exchange halves, and each has four outputs that follow
// each other, of one row of x.
#pragma once
#include "epilogue.cuh"
#include "gpu.h"
#include "kinds.h"

namespace gpu {

// What the epilogue needs, with the type of the output as a number: kernels differ in it so little that they are one.
struct Outputs {
  const float *scale_x, *scale_w, *bias;
  const void* residual;
  void* out;
  int m, n;
  DType type;
  Activation activation;
  bool whole;

  template <typename T>
  GPU_FN Epilogue<T> epilogue() const {
    return {scale_x, scale_w, bias, static_cast<const T*>(residual), static_cast<T*>(out), m, n, activation, whole};
  }
};

// sums[i][j]: of outputs 16 i ... and rows 8 j ... of the warp's tile. kWarpsK warps have parts of the same sums.
template <int kTilesOutputs, int kTilesRows, int kWarpsK>
struct TransposedSums {
  using Sums = int32_t[kTilesOutputs][kTilesRows][4];
  static constexpr int kQuads = kTilesOutputs * kTilesRows;  // of a lane
  static constexpr int kWarpBytes = kQuads * 32 * 16;        // of shared memory that a warp needs

  // The quad of the lane: outputs 4 (g / 2) ... of row 2 t + g % 2.
  static GPU_FN U4 quad(const int32_t (&sums)[4]) {
    const bool odd = (thread() & 4) != 0;
    const uint32_t even_row[2] = {static_cast<uint32_t>(sums[0]), static_cast<uint32_t>(sums[2])};
    const uint32_t odd_row[2] = {static_cast<uint32_t>(sums[1]), static_cast<uint32_t>(sums[3])};
    const uint32_t first = shuffle_xor(odd ? even_row[0] : odd_row[0], 4);
    const uint32_t second = shuffle_xor(odd ? even_row[1] : odd_row[1], 4);
    return odd ? U4{first, second, odd_row[0], odd_row[1]} : U4{even_row[0], even_row[1], first, second};
  }

  // The warp's tile begins at `output` and `row`; `part` of kWarpsK is this warp's, the `warp`-th group of warps. The
  // sums go through shared memory so that a loop, not a copy of the epilogue for each quad, finishes them.
  static GPU_FN void finish(const Sums& sums, uint32_t shared, int warp, int part, int output, int row,
                            const Outputs& outputs) {
    const uint32_t group = shared + warp * kWarpsK * kWarpBytes + (thread() & 31) * 16;
#pragma unroll
    for (int i = 0; i < kTilesOutputs; ++i)
#pragma unroll
      for (int j = 0; j < kTilesRows; ++j)
        store_shared16(group + part * kWarpBytes + (i * kTilesRows + j) * 512, quad(sums[i][j]));
    if (kWarpsK > 1) sync_threads();
    switch (outputs.type) {  // the same for all threads
      case DType::f32:
        return store(group, part, output, row, outputs.epilogue<float>());
      case DType::bf16:
        return store(group, part, output, row, outputs.epilogue<Bf16>());
      case DType::f16:
        return store(group, part, output, row, outputs.epilogue<Half>());
    }
  }

  template <typename T>
  static GPU_FN void store(uint32_t group, int part, int output, int row, const Epilogue<T>& epilogue) {
    const int lane = thread() & 31;
#pragma unroll 1
    for (int at = part; at < kQuads; at += kWarpsK) {
      int32_t sum[4] = {};
#pragma unroll
      for (int k = 0; k < kWarpsK; ++k) {
        const U4 four = load_shared16(group + k * kWarpBytes + at * 512);
        sum[0] += four.x, sum[1] += four.y, sum[2] += four.z, sum[3] += four.w;
      }
      epilogue.store(row + at % kTilesRows * 8 + (lane & 3) * 2 + (lane >> 2 & 1),
                     output + at / kTilesRows * 16 + (lane >> 3) * 4, sum);
    }
  }
};

}  // namespace gpu
