// How long a product by tiles takes, by a model that is not measured: what chooses a tile compares its answers.
#pragma once

#include <algorithm>
#include <cstdint>

namespace gpu {

struct TileTime {
  int stages;           // of the ring of a block
  int shared_bytes;     // of a block
  int registers_allow;  // blocks of it on a multiprocessor
  double products;      // int8 products of a stage as dense tensor cores count them: sparse ones take half
  double bytes;         // of a stage, from the second level
};

// Blocks that the shared memory of a multiprocessor holds; each takes 1 KiB more than it asks for.
inline int shared_allows(int shared_bytes, int capability) {
  const bool most = capability >= 90 && capability < 120;
  const int kib = most ? 228 : capability == 80 || capability == 87 ? 164 : 100;  // 100: 8.6, 8.9, 12.0 and 12.1
  return kib * 1024 / (shared_bytes + 1024);
}

// Cycles of `blocks` tiles of `steps` stages each. Blocks go over the multiprocessors in rounds, and in a round each
// stage takes as long as its products, its bytes or its share of the latency, whichever is longest.
inline double tile_cycles(const TileTime& tile, int64_t blocks, double steps, int sms, int capability) {
  constexpr double kProducts = 2048;  // a cycle, by the sheets of A100 and of mma.sync on H100
  constexpr double kBytes = 48;       // a cycle, from the second level: 5120 for the 108 multiprocessors of an A100
  constexpr double kLatency = 800;    // cycles
  constexpr double kBarrier = 100;    // cycles of a stage that no other block fills
  const int resident = std::min(tile.registers_allow, shared_allows(tile.shared_bytes, capability));
  if (resident == 0) return 1e30;
  const int64_t each = (blocks + sms - 1) / sms;
  const double together = double(std::min<int64_t>(resident, each));
  const double work = std::max(tile.products / kProducts, tile.bytes / kBytes);
  const double stage = std::max(kLatency / (tile.stages - 1), together * work + (together == 1 ? kBarrier : 0));
  return double((each + resident - 1) / resident) * stage * steps;
}

}  // namespace gpu
