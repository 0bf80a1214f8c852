// The AMX int8 and bf16 intrinsics in software, for machines without AMX: compiled into the kernels with -include. What
// the processor would refuse (shapes that do not fit, tiles without a configuration) ends the program with a message.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, LDTILECFG, TILELOADD, TDPBSSD,
// TDPBF16PS.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace amx_emulator {
namespace {

constexpr int kTiles = 8, kMaxRows = 16, kMaxRowBytes = 64;

struct Config {  // the 64-byte operand of LDTILECFG
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

struct State {
  Config config;
  uint8_t data[kTiles][kMaxRows][kMaxRowBytes];
};

thread_local State state = {};

inline void require(bool ok, const char* what) {
  if (ok) return;
  std::printf("FAIL amx emulator: the processor would refuse %s\n", what);
  std::exit(3);
}

inline void load_config(const void* from) {
  state = {};
  std::memcpy(&state.config, from, sizeof(Config));
  const Config& c = state.config;
  if (c.palette == 0) return;
  require(c.palette == 1 && c.start_row == 0, "this palette");
  for (int i = 0; i < 14; ++i) require(c.reserved[i] == 0, "reserved bytes that are not zero");
  for (int t = 0; t < 16; ++t) {
    require(t < kTiles || (c.rows[t] == 0 && c.row_bytes[t] == 0), "more than eight tiles");
    require(c.rows[t] <= kMaxRows && c.row_bytes[t] <= kMaxRowBytes, "a tile larger than 16 x 64 bytes");
    require((c.rows[t] == 0) == (c.row_bytes[t] == 0), "a tile with rows and no columns, or the reverse");
  }
}

inline void require_configured(int tile) {
  require(state.config.palette == 1 && tile >= 0 && tile < kTiles && state.config.rows[tile] > 0,
          "an unconfigured tile");
}

inline void zero(int tile) {
  require_configured(tile);
  std::memset(state.data[tile], 0, sizeof state.data[tile]);
}

inline void load(int tile, const void* base, int64_t stride) {
  zero(tile);  // rows and columns outside the shape are cleared
  for (int r = 0; r < state.config.rows[tile]; ++r)
    std::memcpy(state.data[tile][r], static_cast<const uint8_t*>(base) + r * stride, state.config.row_bytes[tile]);
}

inline void store(int tile, void* base, int64_t stride) {
  require_configured(tile);
  for (int r = 0; r < state.config.rows[tile]; ++r)
    std::memcpy(static_cast<uint8_t*>(base) + r * stride, state.data[tile][r], state.config.row_bytes[tile]);
}

// What every product asks of its tiles: c [rows, columns] += a [rows, depth] b [depth, columns], in elements of 4
// bytes.
inline void require_product(int c, int a, int b) {
  require_configured(c), require_configured(a), require_configured(b);
  require(c != a && c != b && a != b, "one tile for two operands");
  const Config& f = state.config;
  require(f.row_bytes[c] % 4 == 0 && f.row_bytes[a] % 4 == 0, "rows that are no multiple of four bytes");
  require(f.rows[a] == f.rows[c] && f.row_bytes[b] == f.row_bytes[c] && f.rows[b] == f.row_bytes[a] / 4,
          "shapes that do not fit");
}

// c[m][n] += sum over k of a[m][k] * b[k / 4][4 n + k % 4], int32 sums that wrap.
inline void dot_s8s8(int c, int a, int b) {
  require_product(c, a, b);
  const Config& f = state.config;
  const int rows = f.rows[c], columns = f.row_bytes[c] / 4, depth = f.row_bytes[a] / 4;
  for (int m = 0; m < rows; ++m) {
    for (int n = 0; n < columns; ++n) {
      uint32_t sum;
      std::memcpy(&sum, &state.data[c][m][4 * n], 4);
      for (int k = 0; k < depth; ++k)
        for (int i = 0; i < 4; ++i)
          sum += static_cast<uint32_t>(static_cast<int8_t>(state.data[a][m][4 * k + i]) *
                                       static_cast<int8_t>(state.data[b][k][4 * n + i]));
      std::memcpy(&state.data[c][m][4 * n], &sum, 4);
    }
  }
}

inline float bf16_at(const uint8_t* p) {  // subnormal factors count as zero
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  const uint32_t wide = (bits & 0x7f80) == 0 ? (bits & 0x8000u) << 16 : uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// c[m][n] += sum over k of a[m][k] * b[k / 2][2 n + k % 2], bf16 factors, fp32 sums: even k, then odd k.
inline void dot_bf16(int c, int a, int b) {
  require_product(c, a, b);
  const Config& f = state.config;
  const int rows = f.rows[c], columns = f.row_bytes[c] / 4, depth = f.row_bytes[a] / 4;
  for (int m = 0; m < rows; ++m) {
    for (int n = 0; n < columns; ++n) {
      float sum[2] = {0.0f, 0.0f}, start;
      for (int k = 0; k < depth; ++k)
        for (int i = 0; i < 2; ++i)
          sum[i] = __builtin_fmaf(bf16_at(&state.data[a][m][4 * k + 2 * i]), bf16_at(&state.data[b][k][4 * n + 2 * i]),
                                  sum[i]);
      std::memcpy(&start, &state.data[c][m][4 * n], 4);
      start += sum[0] + sum[1];
      std::memcpy(&state.data[c][m][4 * n], &start, 4);
    }
  }
}

}  // namespace
}  // namespace amx_emulator

#undef _tile_loadconfig
#undef _tile_storeconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadconfig(p) amx_emulator::load_config(p)
#define _tile_storeconfig(p) std::memcpy(p, &amx_emulator::state.config, 64)
#define _tile_release() (amx_emulator::state = {})
#define _tile_zero(t) amx_emulator::zero(t)
#define _tile_loadd(t, p, stride) amx_emulator::load(t, p, stride)
#define _tile_stored(t, p, stride) amx_emulator::store(t, p, stride)
#define _tile_dpbssd(c, a, b) amx_emulator::dot_s8s8(c, a, b)
#define _tile_dpbf16ps(c, a, b) amx_emulator::dot_bf16(c, a, b)
