// Ceiling of AMX int8: see ../roofline.h.
#include <immintrin.h>

#include "../instruction_sets.h"

namespace kdnative::cpu::amx {
namespace {

struct alignas(64) TileConfig {  // the operand of ldtilecfg and sttilecfg
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64, "the processor reads 64 bytes");

}  // namespace

// Eight full tiles as two of A, two of B and four of C, as a 32 x 32 block uses them: four products of
// 16 x 16 x 64 multiply-accumulates a round, and no loads.
int64_t int8_burst(int64_t rounds) {
  TileConfig before, full = {};
  _tile_storeconfig(&before);  // kernels configure a thread once and count on it
  full.palette = 1;
  for (int t = 0; t < 8; ++t) full.rows[t] = 16, full.row_bytes[t] = 64;
  _tile_loadconfig(&full);
  alignas(64) uint8_t operand[16 * 64];
  for (int i = 0; i < 16 * 64; ++i) operand[i] = static_cast<uint8_t>(i);
  __asm__ volatile("" : : "r"(operand) : "memory");  // the intrinsic does not tell the compiler that it reads memory
  _tile_loadd(4, operand, 64);
  _tile_loadd(5, operand, 64);
  _tile_loadd(6, operand, 64);
  _tile_loadd(7, operand, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  if (before.palette == 0)
    _tile_release();
  else
    _tile_loadconfig(&before);
  return rounds * 4 * (16 * 16 * 64) * 2;
}

}  // namespace kdnative::cpu::amx
