// y [m, n] = x [m, k] w [n, k]^T for at most 8 rows: what counts is reading the weights once, with many loads under
// way. A block has 32 outputs and a part of the inputs, which its eight warps share. Weights are the left factor of the
// product here, so that the 8 columns of the right one are the rows of x.
#pragma once
#include "w4a16.cuh"
#include "w4a16_rows.cuh"

namespace gpu {

template <typename T, int kBits>
struct W4A16Gemv {
  static constexpr int kWarps = 8, kThreads = 32 * kWarps, kRows = 8;
  static constexpr int kDepth = 4;  // units that a warp loads before it multiplies those of before
  static constexpr int kVectors = kBits / 4;
  static constexpr bool kGroups = kBits == 4;
  static constexpr int kSumBytes = kWarps * kRows * kUnit * 4;

  W4A16Rows rows;
  const uint8_t* codes;
  const float* scale;    // [groups, n padded to 32]
  const uint8_t* zeros;  // or nullptr
  W4A16Output output;
  float* partial;
  uint32_t* counters;
  int m, n;
  int group_shift;  // 2^group_shift units share a scale
  int each;         // units of a block

  // Bytes from row to row of x in shared memory: eight rows of four words each never share a bank.
  static GPU_FN constexpr int pitch(int units) { return units * 64 + 16; }

  struct Batch {
    U4 vectors[kDepth][kVectors];
  };
  GPU_FN void load(Batch& batch, int unit, int end) const {
    const int units = (rows.k + kUnit - 1) / kUnit;
    const uint8_t* from = codes + (static_cast<int64_t>(block_x()) * units + unit) * unit_bytes(kBits);
#pragma unroll
    for (int d = 0; d < kDepth; ++d)
      if (unit + d < end) {
#pragma unroll
        for (int v = 0; v < kVectors; ++v)
          batch.vectors[d][v] = load_global16_once(from + d * unit_bytes(kBits) + v * 512 + (thread() & 31) * 16);
      }
  }

  // Scales and zero points of the block's groups; x.
  GPU_FN void stage(uint32_t x_at, uint32_t scale_at, uint32_t zero_at, int first, int count) const {
    if constexpr (kGroups) {
      const int padded = (n + kUnit - 1) / kUnit * kUnit;
      const int group0 = first >> group_shift, groups = (((count - 1) >> group_shift) + 1);
      for (int at = thread(); at < groups * 8; at += kThreads)
        copy_async16(scale_at + at * 16,
                     scale + static_cast<int64_t>(group0 + at / 8) * padded + block_x() * kUnit + at % 8 * 4, 16);
      if (zeros != nullptr)
        for (int at = thread(); at < groups * 2; at += kThreads)
          copy_async16(zero_at + at * 16,
                       zeros + static_cast<int64_t>(group0 + at / 2) * padded + block_x() * kUnit + at % 2 * 16, 16);
      copy_commit();
    }
    const int pairs = count * (kUnit / 2);
    for (int row = 0; row < m; ++row)
      for (int p = thread(); p < pairs; p += kThreads)
        store_shared4(x_at + row * pitch(count) + p * 4, rows.load_pair<T>(row, first * (kUnit / 2) + p));
    if constexpr (kGroups) copy_wait<0>();
  }

  GPU_FN void multiply_unit(const U4 (&vectors)[kVectors], uint32_t x_at, uint32_t scale_at, uint32_t zero_at, int unit,
                            int count, float (&sums)[2][4]) const {
    const int lane = thread() & 31, g = lane >> 2, t = lane & 3;
    uint32_t b[4];
#pragma unroll
    for (int s = 0; s < 4; ++s) b[s] = g < m ? load_shared4(x_at + g * pitch(count) + unit * 64 + s * 16 + t * 4) : 0u;
    float scales[4] = {};
    uint32_t zero_points = kNoZeros;
    if constexpr (kGroups) {
      const int group = unit >> group_shift;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        scales[j] = float_of_bits(load_shared4(scale_at + (group * kUnit + output_of(j, g)) * 4));
      if (zeros != nullptr) zero_points = load_shared4(zero_at + group * kUnit + g * 4);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {  // rows g and g + 8 of the product are products 2 i and 2 i + 1 of the layout
      uint32_t low[4], high[4];
      factors_of<T, kBits>(vectors, zero_points, 2 * i, low);
      factors_of<T, kBits>(vectors, zero_points, 2 * i + 1, high);
      const uint32_t a[2][4] = {{low[0], high[0], low[1], high[1]}, {low[2], high[2], low[3], high[3]}};
      if constexpr (kGroups) {
        float products[4] = {};
        multiply(products, a[0], b[0], b[1], T{});
        multiply(products, a[1], b[2], b[3], T{});
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[i][c] = fma_rn(products[c], scales[2 * i + c / 2], sums[i][c]);
      } else {
        multiply(sums[i], a[0], b[0], b[1], T{});
        multiply(sums[i], a[1], b[2], b[3], T{});
      }
    }
  }

  // Where the sum of a row and an output of the block lies: a warp's 32 words are in 32 banks, written or read.
  static GPU_FN uint32_t sum_at(uint32_t sums, int warp, int row, int column) {
    return sums + ((warp * kRows + row) * kUnit + (column ^ ((row & 2) | (row & 4) << 2))) * 4;
  }

  // Thread: row warp, output lane of the block. The sums of all warps, then of all blocks, in their order.
  GPU_FN bool add_up(uint32_t shared, const float (&sums)[2][4], float& sum) const {
    const int lane = thread() & 31, warp = thread() >> 5;
    sync_threads();  // everyone is done with what lay there
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        store_shared4(sum_at(shared, warp, (lane & 3) * 2 + (c & 1), output_of(2 * i + c / 2, lane >> 2)),
                      bits_of(sums[i][c]));
    sync_threads();
    sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum = add_rn(sum, float_of_bits(load_shared4(sum_at(shared, w, warp, lane))));
    if (grid_y() == 1) return true;
    float* mine = partial + static_cast<int64_t>(block_x()) * grid_y() * kThreads + thread();
    store_global(mine + block_y() * kThreads, sum);
    if (!last_of(counters + block_x(), grid_y(), shared + kSumBytes)) return false;
    sum = 0.0f;
    for (int y = 0; y < grid_y(); ++y) sum = add_rn(sum, load_written(mine + y * kThreads));
    return true;
  }

  GPU_FN void store(float sum) const {
    const int row = thread() >> 5, column = block_x() * kUnit + (thread() & 31);
    if (row >= m || column >= n) return;
    if constexpr (!kGroups) sum = mul_rn(sum, load_global(scale + column));
    float y[4] = {sum};
    store_outputs<T, 1>(output, row, column, y);
  }

  GPU_FN void run() const {
    const int units = (rows.k + kUnit - 1) / kUnit, first = block_y() * each;
    const int count = units - first < each ? units - first : each;
    const uint32_t x_at = shared_base(), scale_at = x_at + m * pitch(count);
    const uint32_t zero_at = scale_at + (kGroups ? (((count - 1) >> group_shift) + 1) * (kUnit * 4) : 0);
    // Each warp has neighbouring units, whose groups are its own.
    const int share = (count + kWarps * kDepth - 1) / (kWarps * kDepth) * kDepth;
    const int begin = (thread() >> 5) * share, end = begin + share < count ? begin + share : count;
    Batch now, next;
    load(now, first + begin, first + end);
    stage(x_at, scale_at, zero_at, first, count);
    sync_threads();
    float sums[2][4] = {};
    for (int unit = begin; unit < end; unit += kDepth) {
      load(next, first + unit + kDepth, first + end);
#pragma unroll
      for (int d = 0; d < kDepth; ++d)
        if (unit + d < end) multiply_unit(now.vectors[d], x_at, scale_at, zero_at, unit + d, count, sums);
      now = next;
    }
    float sum;
    if (add_up(x_at, sums, sum)) store(sum);
  }
};

}  // namespace gpu
