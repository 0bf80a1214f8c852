// y [m, n] = x [m, k] w [n, k]^T for many rows: tiles of x and codes arrive by asynchronous copies, codes become
// factors in registers between the products. Rows of x start on 16 bytes and k is a multiple of 8.
#pragma once
#include "w4a16.cuh"

namespace gpu {

// kTilesM: 16-row tiles of a warp, which has 32 outputs; kWarpsM times four warps.
template <typename T, int kBits, int kTilesM, int kWarpsM, int kStages>
struct W4A16Gemm {
  static constexpr int kBm = 16 * kTilesM * kWarpsM, kBn = 128, kBk = 64;
  static constexpr int kThreads = 128 * kWarpsM;
  static constexpr int kStrips = kBn / kUnit, kUnits = kBk / kUnit, kVectors = kBits / 4;
  static constexpr bool kGroups = kBits == 4;  // else one scale an output, which is applied at the end
  // A stage: x, codes, and for each unit a row of scales and one of zero points.
  static constexpr int kCodes = kBm * kBk * 2, kScales = kCodes + kStrips * kUnits * unit_bytes(kBits);
  static constexpr int kZeros = kScales + (kGroups ? kUnits * kBn * 4 : 0);
  static constexpr int kStageBytes = kZeros + (kGroups ? kUnits * kBn : 0);
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static_assert(kSharedBytes >= kBm * kBn * 4);

  const void* x;  // [m, k] factors, row after row
  const uint8_t* codes;
  const float* scale;    // [groups, n padded to 32]
  const uint8_t* zeros;  // or nullptr
  W4A16Output output;
  float* partial;      // where the blocks of one tile leave their sums
  uint32_t* counters;  // of tiles, 0; the last block makes them 0 again
  int m, n, k;
  int group_shift;  // 2^group_shift units share a scale
  int each;         // steps of kBk inputs that one block takes

  // Chunk c (16 bytes) of row r of x: eight rows have one chunk in eight groups of banks.
  static GPU_FN uint32_t chunk_at(uint32_t tile, int r, int c) { return tile + r * (kBk * 2) + ((c ^ r) & 7) * 16; }

  // What a thread copies for each step: pointers to where step 0 begins, and how many bytes of each are there at all.
  struct Sources {
    const uint16_t* x;
    int64_t x_stride;  // elements from one of the thread's rows to the next
    const uint8_t* codes;
    int x_rows, weight_chunks;  // those inside
    const float* scale;
    const uint8_t* zeros;
    int scale_bytes, zero_bytes;
  };
  static constexpr int kXRows = kThreads / 8, kStripChunks = kUnits * unit_bytes(kBits) / 16;
  static constexpr int kScaleChunks = kBn / 4, kZeroChunks = kBn / 16, kScaleThreads = kScaleChunks + kZeroChunks;
  static_assert(kThreads % kStripChunks == 0 && 2 * kScaleThreads <= kThreads);

  GPU_FN Sources sources() const {
    Sources s;
    const int row = block_y() * kBm + (thread() >> 3), units = (k + kUnit - 1) / kUnit;
    s.x = static_cast<const uint16_t*>(x) + static_cast<int64_t>(row) * k + (thread() & 7) * 8;
    s.x_stride = static_cast<int64_t>(kXRows) * k;
    s.x_rows = (m - row + kXRows - 1) / kXRows;
    const int strips = (n + kUnit - 1) / kUnit, strip = block_x() * kStrips + thread() / kStripChunks;
    s.codes = codes + static_cast<int64_t>(strip) * units * unit_bytes(kBits) + thread() % kStripChunks * 16;
    constexpr int kStripStep = kThreads / kStripChunks;
    s.weight_chunks = (strips - strip + kStripStep - 1) / kStripStep;
    const int chunk = thread() % kScaleThreads, column = block_x() * kBn + chunk * 4;
    const int zero_column = block_x() * kBn + (chunk - kScaleChunks) * 16;
    s.scale = scale + column, s.zeros = (zeros == nullptr ? codes : zeros) + zero_column;
    s.scale_bytes = chunk < kScaleChunks && column < strips * kUnit ? 16 : 0;
    s.zero_bytes = chunk >= kScaleChunks && zero_column < strips * kUnit && zeros != nullptr ? 16 : 0;
    return s;
  }

  GPU_FN void copy_step(const Sources& from, uint32_t stage, int step) const {
    const int units = (k + kUnit - 1) / kUnit;
    const bool inside = step * kBk + (thread() & 7) * 8 < k;
    const uint16_t* x_from = from.x + step * kBk;
    const uint32_t x_to = chunk_at(stage, thread() >> 3, thread() & 7);
#pragma unroll
    for (int i = 0; i < (kBm + kXRows - 1) / kXRows; ++i)
      copy_async16(x_to + i * (kXRows * kBk * 2), x_from + i * from.x_stride, inside && i < from.x_rows ? 16 : 0);
    const int unit = step * kUnits + thread() % kStripChunks * 16 / unit_bytes(kBits);
    const uint8_t* codes_from = from.codes + static_cast<int64_t>(step) * (kUnits * unit_bytes(kBits));
    constexpr int kStripStep = kThreads / kStripChunks;
#pragma unroll
    for (int i = 0; i < kStrips / kStripStep; ++i)
      copy_async16(stage + kCodes + (i * kThreads + thread()) * 16,
                   codes_from + static_cast<int64_t>(i) * kStripStep * units * unit_bytes(kBits),
                   unit < units && i < from.weight_chunks ? 16 : 0);
    if constexpr (!kGroups) return;
    // Both units of a step have one row of scales, unless groups are units.
    const int row = thread() / kScaleThreads, chunk = thread() % kScaleThreads;
    if (row >= (group_shift == 0 ? 2 : 1)) return;
    const int group = (step * kUnits >> group_shift) + row, groups = units >> group_shift;
    const int64_t at = static_cast<int64_t>(group) * ((n + kUnit - 1) / kUnit * kUnit);
    if (chunk < kScaleChunks)
      copy_async16(stage + kScales + row * kBn * 4 + chunk * 16, from.scale + at,
                   group < groups ? from.scale_bytes : 0);
    else
      copy_async16(stage + kZeros + row * kBn + (chunk - kScaleChunks) * 16, from.zeros + at,
                   group < groups ? from.zero_bytes : 0);
  }

  GPU_FN void multiply_unit(uint32_t stage, int unit, float (&sums)[kTilesM][4][4]) const {
    const int lane = thread() & 31, warp = thread() >> 5, strip = warp % 4, row0 = warp / 4 * (kTilesM * 16);
    uint32_t a[2][kTilesM][4];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < kTilesM; ++i)  // matrices: rows 0 .. 7, rows 8 .. 15, then both again 8 inputs on
        load_matrix_x4(a[half][i],
                       chunk_at(stage, row0 + (lane & 15), unit * 4 + half * 2 + (lane >> 4)) + i * 16 * kBk * 2);
    U4 vectors[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      vectors[v] = load_shared16(stage + kCodes + (strip * kUnits + unit) * unit_bytes(kBits) + v * 512 + lane * 16);
    float scales[2][4] = {};
    uint32_t zero_points = kNoZeros;
    if constexpr (kGroups) {
      const uint32_t row = group_shift == 0 ? unit : 0;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const U4 s = load_shared16(stage + row * (kBn * 4) + kScales + (strip * kUnit + h * 16 + (lane & 3) * 4) * 4);
        scales[h][0] = float_of_bits(s.x), scales[h][1] = float_of_bits(s.y);
        scales[h][2] = float_of_bits(s.z), scales[h][3] = float_of_bits(s.w);
      }
      if (zeros != nullptr) zero_points = load_shared4(stage + row * kBn + kZeros + strip * kUnit + (lane >> 2) * 4);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t b[4];
      factors_of<T, kBits>(vectors, zero_points, j, b);
      if constexpr (kGroups) {
        float products[kTilesM][4] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int i = 0; i < kTilesM; ++i) multiply(products[i], a[half][i], b[2 * half], b[2 * half + 1], T{});
#pragma unroll
        for (int i = 0; i < kTilesM; ++i)
#pragma unroll
          for (int c = 0; c < 4; ++c)
            sums[i][j][c] = fma_rn(products[i][c], scales[j >> 1][(j & 1) * 2 + (c & 1)], sums[i][j][c]);
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int i = 0; i < kTilesM; ++i) multiply(sums[i][j], a[half][i], b[2 * half], b[2 * half + 1], T{});
      }
    }
  }

  // The sums of all blocks of this tile, in their order, in the last of them; false in the others.
  GPU_FN bool add_up(uint32_t shared, float (&sums)[kTilesM][4][4]) const {
    const int tile = block_y() * grid_x() + block_x();
    constexpr int kTileFloats = kBm * kBn;
    float* mine = partial + static_cast<int64_t>(tile) * grid_z() * kTileFloats + thread() * 4;
#pragma unroll
    for (int i = 0; i < kTilesM * 4; ++i) {
      const float (&s)[4] = sums[i / 4][i % 4];
      store_global16(mine + static_cast<int64_t>(block_z()) * kTileFloats + i * (kThreads * 4),
                     U4{bits_of(s[0]), bits_of(s[1]), bits_of(s[2]), bits_of(s[3])});
    }
    if (!last_of(counters + tile, grid_z(), shared)) return false;
#pragma unroll
    for (int i = 0; i < kTilesM * 4; ++i) {
      float (&s)[4] = sums[i / 4][i % 4];
      s[0] = s[1] = s[2] = s[3] = 0.0f;
    }
    for (int z = 0; z < grid_z(); ++z)
#pragma unroll
      for (int i = 0; i < kTilesM * 4; ++i) {
        const U4 v = load_written16(mine + static_cast<int64_t>(z) * kTileFloats + i * (kThreads * 4));
        float (&s)[4] = sums[i / 4][i % 4];
        s[0] = add_rn(s[0], float_of_bits(v.x)), s[1] = add_rn(s[1], float_of_bits(v.y));
        s[2] = add_rn(s[2], float_of_bits(v.z)), s[3] = add_rn(s[3], float_of_bits(v.w));
      }
    return true;
  }

  // Chunk c (four sums) of a row of the tile: two rows that are written together differ in their banks.
  static GPU_FN uint32_t sums_at(uint32_t tile, int r, int c) { return tile + r * (kBn * 4) + (c ^ (r & 1) * 4) * 16; }

  // Through shared memory: what follows the sums is there once, in a loop, and not once for each of them.
  GPU_FN void store(uint32_t shared, const float (&sums)[kTilesM][4][4]) const {
    const int lane = thread() & 31, warp = thread() >> 5;
    sync_threads();  // everyone is done with what lay there
#pragma unroll
    for (int i = 0; i < kTilesM * 2; ++i)  // rows 8 apart
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float (&low)[4] = sums[i / 2][2 * h], (&high)[4] = sums[i / 2][2 * h + 1];
        const int row = warp / 4 * (kTilesM * 16) + i * 8 + (lane >> 2), c = i % 2 * 2;
        store_shared16(sums_at(shared, row, warp % 4 * 8 + h * 4 + (lane & 3)),
                       U4{bits_of(low[c]), bits_of(low[c + 1]), bits_of(high[c]), bits_of(high[c + 1])});
      }
    sync_threads();
    const int column = block_x() * kBn + lane * 4;
    float scales[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    if (!kGroups && column < n) load4(scale + column, 4, true, scales);
#pragma unroll 1
    for (int row = warp; row < kBm; row += kThreads / 32) {
      const U4 v = load_shared16(sums_at(shared, row, lane));
      float y[4] = {float_of_bits(v.x), float_of_bits(v.y), float_of_bits(v.z), float_of_bits(v.w)};
      if constexpr (!kGroups) {
#pragma unroll
        for (int e = 0; e < 4; ++e) y[e] = mul_rn(y[e], scales[e]);
      }
      store_outputs<T, 4>(output, block_y() * kBm + row, column, y);
    }
  }

  GPU_FN void run() const {
    const uint32_t shared = shared_base();
    const int first = block_z() * each, all = (k + kBk - 1) / kBk;
    const int steps = all - first < each ? all - first : each;
    float sums[kTilesM][4][4] = {};
    const Sources from = sources();
#pragma unroll 1
    for (int s = 0; s < kStages - 1; ++s) {
      if (s < steps) copy_step(from, shared + s * kStageBytes, first + s);
      copy_commit();
    }
    uint32_t stage = shared, next = shared + (kStages - 1) * kStageBytes;
    const auto advance = [shared](uint32_t at) {
      return at == shared + (kStages - 1) * kStageBytes ? shared : at + kStageBytes;
    };
#pragma unroll 1
    for (int s = 0; s < steps; ++s) {
      copy_wait<kStages - 2>();
      sync_threads();  // the stage has arrived for everyone, and everyone is done with the one overwritten below
      const int ahead = s + kStages - 1;
      if (ahead < steps) copy_step(from, next, first + ahead);
      copy_commit();
#pragma unroll
      for (int unit = 0; unit < kUnits; ++unit) multiply_unit(stage, unit, sums);
      stage = advance(stage), next = advance(next);
    }
    copy_wait<0>();
    if (grid_z() > 1 && !add_up(shared, sums)) return;
    store(shared, sums);
  }
};

}  // namespace gpu
