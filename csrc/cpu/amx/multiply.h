// Bf16Product on AMX tiles, for up to 32 rows. Include it after vec_avx512.h.
#pragma once

#include "../avx512bf16/product.h"
#include "tiles.h"

namespace kdnative::cpu::amx {
namespace {

inline void multiply_bf16(const Bf16Product& p, Tiles& tiles) {
  constexpr int64_t kStep = 64;  // bytes of k: 32 factors
  tiles.shape(p.rows, kStep);
  for (int64_t column = 0; column < p.columns; column += kBlockColumns) {
    const uint16_t* b = p.b + column / 16 * p.b_block;
    Prefetch nothing(nullptr, nullptr, 0, 1);
    const Product block{p.a, p.lda * 2, {b, b + p.b_block}, p.depth * 2 / kStep, kStep, p.ldc};
    multiply(p.rows, block, false, p.c + column, nothing);
  }
}

}  // namespace
}  // namespace kdnative::cpu::amx
