// Chooses a tile for a product of int8 activations and a block-sparse weight, and launches it (blocks.cu).
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "blocks_layout.h"
#include "int8_product.h"
#include "launcher.h"
#include "tile_time.h"

namespace gpu {

struct Blocks : Int8Product {
  int side;              // of a block: 16, 32 or 64
  int64_t units;         // in codes and columns
  const uint8_t* codes;  // these three as in blocks_layout.h, on 16 bytes
  const int32_t* columns;
  const int32_t* start;
};

// A tile as it is compiled in blocks.cu.
struct BlocksTileShape {
  const char* name;  // of its kernel
  int side;          // of the blocks that it is for
  int rows, outputs, depth, stages, threads;
  int registers_allow;  // blocks of it on a multiprocessor
  bool gathers;         // the inputs of its blocks from x, by units; else x comes whole, and codes go into registers
  int shared_bytes() const { return stages * depth * (rows + (gathers ? outputs : 0)); }
};

inline constexpr BlocksTileShape kBlocksTiles[] = {
    {"blocks64_many", 64, 128, 64, 64, 4, 128, 3, true},    {"blocks64_few", 64, 16, 64, 256, 4, 128, 4, true},
    {"blocks32_many", 32, 128, 32, 64, 4, 128, 4, true},    {"blocks32_few", 32, 16, 32, 256, 4, 128, 6, true},
    {"blocks16_many", 16, 128, 128, 128, 4, 256, 2, false}, {"blocks16_few", 16, 16, 16, 256, 4, 128, 8, true},
};

// Cycles by the model of tile_time.h, as if all rows of blocks had as many blocks.
inline double blocks_cycles(const BlocksTileShape& tile, const Blocks& a, int sms, int capability) {
  const int64_t of_outputs = (a.n + a.side - 1) / a.side;
  const double stored = double(a.units) * 64 / (double(of_outputs) * double(a.k_pad));
  const double rows = double(std::min<int64_t>(tile.rows, a.m)), depth = tile.depth;
  // Of a stage, what is multiplied and what is read; rows of x come in pieces of 32 bytes.
  const double part = tile.gathers ? 1 : stored, pieces = tile.gathers && a.side == 16 ? 2 : 1;
  const TileTime time{tile.stages, tile.shared_bytes(), tile.registers_allow, tile.rows * tile.outputs * depth * part,
                      (rows * pieces + tile.outputs * part) * depth};
  const int64_t blocks = (a.m + tile.rows - 1) / tile.rows * ((a.n + tile.outputs - 1) / tile.outputs);
  return tile_cycles(time, blocks, double(a.k_pad) / depth * (tile.gathers ? stored : 1), sms, capability);
}

// Of the tiles for its blocks, the one whose time is least by the model. sms and capability: what the launcher says.
inline const BlocksTileShape& choose_blocks(const Blocks& a, int sms, int capability) {
  const BlocksTileShape* best = nullptr;
  for (const BlocksTileShape& tile : kBlocksTiles) {
    if (tile.side != a.side) continue;
    if (!best || blocks_cycles(tile, a, sms, capability) < blocks_cycles(*best, a, sms, capability)) best = &tile;
  }
  if (!best)
    throw std::invalid_argument("blocks: a weight in blocks of " + std::to_string(a.side) +
                                ", and blocks have a side of 16, 32 or 64");
  return *best;
}

// Throws std::invalid_argument for sizes that no kernel takes. m = 0 launches nothing.
inline void blocks(Launcher& launcher, const Blocks& a, const BlocksTileShape& tile) {
  const std::string shapes = "blocks: x [" + std::to_string(a.m) + ", " + std::to_string(a.k_pad) + "], a weight of " +
                             std::to_string(a.n) + " outputs in blocks of " + std::to_string(a.side) + ": ";
  if (tile.side != a.side) throw std::invalid_argument(shapes + tile.name + " is not for them");
  check_product(a, a.codes, shapes);
  if (a.units < 0 || a.units > kMostRows / 256)
    throw std::invalid_argument(shapes + std::to_string(a.units) + " units of blocks can't be; at most " +
                                std::to_string(kMostRows / 256) + " are allowed");
  Kernel kernel{"blocks", tile.name};
  kernel.grid_x = static_cast<uint32_t>((a.m + tile.rows - 1) / tile.rows);
  kernel.grid_y = static_cast<uint32_t>((a.n + tile.outputs - 1) / tile.outputs);
  kernel.threads = static_cast<uint32_t>(tile.threads);
  kernel.shared_bytes = static_cast<uint32_t>(tile.shared_bytes());
  launch(launcher, kernel, a.x, a.scale_x, a.codes, a.columns, a.start, static_cast<int>(a.units), a.scale_w, a.bias,
         a.residual, a.out, static_cast<int>(a.m), static_cast<int>(a.n), static_cast<int>(a.k_pad),
         static_cast<int>(a.type), static_cast<int>(a.activation), writes_by_four(a));
}

inline void blocks(Launcher& launcher, const Blocks& a) {
  blocks(launcher, a, choose_blocks(a, launcher.multiprocessors(), launcher.capability()));
}

}  // namespace gpu
