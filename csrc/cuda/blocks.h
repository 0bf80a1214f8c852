// Chooses a tile for a product of int8 activations and a block-sparse weight, and launches it (blocks.cu).
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "blocks_layout.h"
#include "kinds.h"
#include "launcher.h"
#include "quantize.h"
#include "tile_time.h"
#include "w8a8_layout.h"

namespace gpu {

struct Blocks {
  const int8_t* x;       // [m, k_pad], on 16 bytes, with zeros from column k on
  const float* scale_x;  // [m]
  int side;              // of a block: 16, 32 or 64
  int64_t units;         // in codes and columns
  const uint8_t* codes;  // these three as in blocks_layout.h, on 16 bytes
  const int32_t* columns;
  const int32_t* start;
  const float* scale_w;  // [n], on 16 bytes
  const float* bias;     // [n], on 16 bytes, or nullptr
  const void* residual;  // [m, n] of out's type, added last; or nullptr
  void* out;             // [m, n]
  DType type;            // of out
  Activation activation;
  int64_t m, n;
  int64_t k_pad;  // that of w8a8: a multiple of kW8A8PadK
};

// A tile as it is compiled in blocks.cu: so many rows of x and one row of blocks.
struct BlocksTileShape {
  const char* names[3][3];  // of its kernels, for sides of 16, 32 and 64, by DType
  int rows, units, stages, threads;
  int registers_allow;  // blocks of it on a multiprocessor
  int shared_bytes(int side) const { return stages * units * BlocksLayout::kUnitK * (side + rows); }
};

inline constexpr BlocksTileShape kBlocksTiles[] = {
    {{{"blocks16_many_f32", "blocks16_many_bf16", "blocks16_many_f16"},
      {"blocks32_many_f32", "blocks32_many_bf16", "blocks32_many_f16"},
      {"blocks64_many_f32", "blocks64_many_bf16", "blocks64_many_f16"}},
     128,
     1,
     4,
     128,
     3},
    {{{"blocks16_few_f32", "blocks16_few_bf16", "blocks16_few_f16"},
      {"blocks32_few_f32", "blocks32_few_bf16", "blocks32_few_f16"},
      {"blocks64_few_f32", "blocks64_few_bf16", "blocks64_few_f16"}},
     16,
     4,
     4,
     128,
     4},
};

inline double blocks_cycles(const BlocksTileShape& tile, const Blocks& a, int sms, int capability) {
  const int64_t of_outputs = (a.n + a.side - 1) / a.side;
  const double depth = tile.units * BlocksLayout::kUnitK, rows = double(std::min<int64_t>(tile.rows, a.m));
  const TileTime time{tile.stages, tile.shared_bytes(a.side), tile.registers_allow, tile.rows * a.side * depth,
                      (rows * (a.side == 16 ? 2 : 1) + a.side) * depth};  // rows come in pieces of 32 bytes
  const double steps = double(a.units) / double(of_outputs) / tile.units;
  return tile_cycles(time, (a.m + tile.rows - 1) / tile.rows * of_outputs, steps, sms, capability);
}

// The tile whose time is least by the model. sms and capability: what the launcher says of the device.
inline const BlocksTileShape& choose_blocks(const Blocks& a, int sms, int capability) {
  const BlocksTileShape &many = kBlocksTiles[0], &few = kBlocksTiles[1];
  return blocks_cycles(few, a, sms, capability) < blocks_cycles(many, a, sms, capability) ? few : many;
}

// Throws std::invalid_argument for sizes that no kernel takes. m = 0 launches nothing.
inline void blocks(Launcher& launcher, const Blocks& a, const BlocksTileShape& tile) {
  const std::string shapes = "blocks: x [" + std::to_string(a.m) + ", " + std::to_string(a.k_pad) + "], a weight of " +
                             std::to_string(a.n) + " outputs in blocks of " + std::to_string(a.side) + ": ";
  if (a.side != 16 && a.side != 32 && a.side != 64)
    throw std::invalid_argument(shapes + "blocks have a side of 16, 32 or 64");
  if (a.m < 0 || a.n < 1 || a.k_pad < kW8A8PadK || a.k_pad % kW8A8PadK != 0 || a.k_pad > kMostRows)
    throw std::invalid_argument(shapes + "rows of x must be padded to a multiple of 128");
  if (a.units < 0 || a.units > kMostRows / 256)
    throw std::invalid_argument(shapes + std::to_string(a.units) + " units of blocks can't be; at most " +
                                std::to_string(kMostRows / 256) + " are allowed");
  for (const void* at : {static_cast<const void*>(a.x), static_cast<const void*>(a.codes),
                         static_cast<const void*>(a.scale_w), static_cast<const void*>(a.bias)})
    if (!lies_on(at, 16))
      throw std::invalid_argument(shapes + "x, the codes, their scale and the bias must lie on 16 bytes");
  if (a.m > kMostRows || a.n > kMostRows)
    throw std::invalid_argument(shapes + "at most " + std::to_string(kMostRows) + " rows and outputs are allowed; " +
                                "give fewer rows at a time");
  Kernel kernel{"blocks", tile.names[a.side / 32][static_cast<int>(a.type)]};
  kernel.grid_x = static_cast<uint32_t>((a.m + tile.rows - 1) / tile.rows);
  kernel.grid_y = static_cast<uint32_t>((a.n + a.side - 1) / a.side);
  kernel.threads = static_cast<uint32_t>(tile.threads);
  kernel.shared_bytes = static_cast<uint32_t>(tile.shared_bytes(a.side));
  const int whole = reads_by_four(a.n, a.type, {a.out, a.residual});
  launch(launcher, kernel, a.x, a.scale_x, a.codes, a.columns, a.start, static_cast<int>(a.units), a.scale_w, a.bias,
         a.residual, a.out, static_cast<int>(a.m), static_cast<int>(a.n), static_cast<int>(a.k_pad),
         static_cast<int>(a.activation), whole);
}

inline void blocks(Launcher& launcher, const Blocks& a) {
  blocks(launcher, a, choose_blocks(a, launcher.multiprocessors(), launcher.capability()));
}

}  // namespace gpu
