// Chooses a tile for a product of int8 activations and a 2:4 weight, and launches it (sparse24.cu).
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "int8_product.h"
#include "launcher.h"
#include "sparse24_layout.h"
#include "tile_time.h"

namespace gpu {

struct Sparse24 : Int8Product {
  const uint8_t* weight;  // the tiles of sparse24_layout.h, on 16 bytes
};

// A tile as it is compiled in sparse24.cu.
struct Sparse24TileShape {
  const char* name;  // of its kernel
  int rows, outputs, depth, stages, threads;
  int registers_allow;  // blocks of it on a multiprocessor
  int stage_bytes() const { return outputs / 16 * (depth / 64) * Sparse24Layout::kTileBytes + rows * depth; }
  int shared_bytes() const { return stages * stage_bytes(); }
};

inline constexpr Sparse24TileShape kSparse24Tiles[] = {
    {"sparse24_large", 128, 128, 128, 3, 128, 2},
    {"sparse24_medium", 64, 64, 128, 3, 128, 4},
    {"sparse24_small", 16, 32, 256, 6, 128, 4},
};

inline double sparse24_cycles(const Sparse24TileShape& tile, int64_t m, int64_t n, int64_t k_pad, int sms,
                              int capability) {
  const int64_t blocks = (m + tile.rows - 1) / tile.rows * ((n + tile.outputs - 1) / tile.outputs);
  const double unread = double(tile.rows - std::min<int64_t>(tile.rows, m)) * tile.depth;
  const TileTime time{tile.stages, tile.shared_bytes(), tile.registers_allow,
                      double(tile.rows) * tile.outputs * tile.depth / 2, double(tile.stage_bytes()) - unread};
  return tile_cycles(time, blocks, double((k_pad + tile.depth - 1) / tile.depth), sms, capability);
}

// The tile whose time is least by the model. sms and capability: what the launcher says of the device.
inline const Sparse24TileShape& choose_sparse24(int64_t m, int64_t n, int64_t k_pad, int sms, int capability) {
  return *std::min_element(std::begin(kSparse24Tiles), std::end(kSparse24Tiles), [&](const auto& a, const auto& b) {
    return sparse24_cycles(a, m, n, k_pad, sms, capability) < sparse24_cycles(b, m, n, k_pad, sms, capability);
  });
}

// Throws std::invalid_argument for sizes that no kernel takes. m = 0 launches nothing.
inline void sparse24(Launcher& launcher, const Sparse24& a, const Sparse24TileShape& tile) {
  const std::string shapes = "sparse24: x [" + std::to_string(a.m) + ", " + std::to_string(a.k_pad) +
                             "], a 2:4 weight of " + std::to_string(a.n) + " outputs: ";
  check_product(a, a.weight, shapes);
  Kernel kernel{"sparse24", tile.name};
  kernel.grid_x = static_cast<uint32_t>((a.m + tile.rows - 1) / tile.rows);
  kernel.grid_y = static_cast<uint32_t>((a.n + tile.outputs - 1) / tile.outputs);
  kernel.threads = static_cast<uint32_t>(tile.threads);
  kernel.shared_bytes = static_cast<uint32_t>(tile.shared_bytes());
  launch(launcher, kernel, a.x, a.scale_x, a.weight, a.scale_w, a.bias, a.residual, a.out, static_cast<int>(a.m),
         static_cast<int>(a.n), static_cast<int>(a.k_pad), static_cast<int>(a.type), static_cast<int>(a.activation),
         writes_by_four(a));
}

inline void sparse24(Launcher& launcher, const Sparse24& a) {
  sparse24(launcher, a, choose_sparse24(a.m, a.n, a.k_pad, launcher.multiprocessors(), launcher.capability()));
}

}  // namespace gpu
