// Chooses a tile for a product of int8 activations and int8 weights, and launches it (w8a8.cu).
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "int8_product.h"
#include "launcher.h"
#include "tile_time.h"

namespace gpu {

struct W8A8 : Int8Product {
  const int8_t* w;  // [n, k_pad], on 16 bytes, with zeros from column k on
};

// A tile as it is compiled in w8a8.cu.
struct W8A8TileShape {
  const char* names[3];  // of its kernels, by DType
  int rows, columns, bytes_k, stages, threads;
  int registers_allow;  // blocks of it on a multiprocessor
  constexpr int shared_bytes() const { return stages * (rows + columns) * bytes_k; }
};

inline constexpr W8A8TileShape kW8A8Tiles[] = {
    {{"w8a8_128x128_f32", "w8a8_128x128_bf16", "w8a8_128x128_f16"}, 128, 128, 64, 4, 256, 2},
    {{"w8a8_128x128_short_f32", "w8a8_128x128_short_bf16", "w8a8_128x128_short_f16"}, 128, 128, 64, 3, 256, 2},
    {{"w8a8_64x64_f32", "w8a8_64x64_bf16", "w8a8_64x64_f16"}, 64, 64, 64, 4, 128, 4},
    {{"w8a8_64x32_f32", "w8a8_64x32_bf16", "w8a8_64x32_f16"}, 64, 32, 128, 4, 128, 4},
    {{"w8a8_16x32_f32", "w8a8_16x32_bf16", "w8a8_16x32_f16"}, 16, 32, 128, 6, 128, 4},
};

inline int64_t w8a8_blocks(const W8A8TileShape& tile, int64_t m, int64_t n) {
  return (m + tile.rows - 1) / tile.rows * ((n + tile.columns - 1) / tile.columns);
}

// Cycles by the model of tile_time.h.
inline double w8a8_cycles(const W8A8TileShape& tile, int64_t m, int64_t n, int64_t k_pad, int sms, int capability) {
  const double rows = double(std::min<int64_t>(tile.rows, m)), columns = double(std::min<int64_t>(tile.columns, n));
  const TileTime time{tile.stages, tile.shared_bytes(), tile.registers_allow,
                      double(tile.rows) * tile.columns * tile.bytes_k, (rows + columns) * tile.bytes_k};
  return tile_cycles(time, w8a8_blocks(tile, m, n), double(k_pad / tile.bytes_k), sms, capability);
}

// The tile whose time is least by the model. sms and capability: what the launcher says of the device.
inline const W8A8TileShape& choose_w8a8(int64_t m, int64_t n, int64_t k_pad, int sms, int capability) {
  const W8A8TileShape* best = &kW8A8Tiles[0];
  for (const W8A8TileShape& tile : kW8A8Tiles)
    if (w8a8_cycles(tile, m, n, k_pad, sms, capability) < w8a8_cycles(*best, m, n, k_pad, sms, capability))
      best = &tile;
  return *best;
}

// Throws std::invalid_argument for sizes that no kernel takes. m = 0 launches nothing.
inline void w8a8(Launcher& launcher, const W8A8& a, const W8A8TileShape& tile) {
  const std::string shapes = "w8a8: x [" + std::to_string(a.m) + ", " + std::to_string(a.k_pad) + "], w [" +
                             std::to_string(a.n) + ", " + std::to_string(a.k_pad) + "]: ";
  check_product(a, a.w, shapes);
  const int64_t blocks = w8a8_blocks(tile, a.m, a.n);
  if (blocks > 0x7fffffff)
    throw std::invalid_argument(shapes + std::to_string(blocks) + " blocks of " + std::to_string(tile.rows) + " x " +
                                std::to_string(tile.columns) + " are needed, and a grid has at most 2147483647; " +
                                "give fewer rows at a time");
  Kernel kernel{"w8a8", tile.names[static_cast<int>(a.type)]};
  kernel.grid_x = static_cast<uint32_t>(blocks);
  kernel.threads = static_cast<uint32_t>(tile.threads);
  kernel.shared_bytes = static_cast<uint32_t>(tile.shared_bytes());
  launch(launcher, kernel, a.x, a.scale_x, a.w, a.scale_w, a.bias, a.residual, a.out, static_cast<int>(a.m),
         static_cast<int>(a.n), static_cast<int>(a.k_pad), static_cast<int>(a.activation), writes_by_four(a));
}

inline void w8a8(Launcher& launcher, const W8A8& a) {
  w8a8(launcher, a, choose_w8a8(a.m, a.n, a.k_pad, launcher.multiprocessors(), launcher.capability()));
}

}  // namespace gpu
