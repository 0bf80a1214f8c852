// Attention on AMX bf16 tiles.
#include "../simd/vec_avx512.h"
// Written against Vec, so it comes after it.
#include "../avx512bf16/attention_bf16.h"
#include "amx.h"
#include "tiles.h"

namespace kdnative::cpu::amx {

void attention(const AttentionArgs& a, int32_t head_begin, int32_t head_end) {
  static_assert(kQueryBlock == kBlockRows, "a block of queries is a block of tiles");
  Tiles tiles;
  attention_bf16(a, head_begin, head_end, kBlockRows, [&](const Bf16Product& p) {
    constexpr int64_t kStep = 64;  // bytes of k: 32 factors
    tiles.shape(p.rows, kStep);
    for (int64_t column = 0; column < p.columns; column += kBlockColumns) {
      const uint16_t* b = p.b + column / 16 * p.b_block;
      Prefetch nothing(nullptr, nullptr, 0, 1);
      const Product block{p.a, p.lda * 2, {b, b + p.b_block}, p.depth * 2 / kStep, kStep, p.ldc};
      multiply(p.rows, block, false, p.c + column, nothing);
    }
  });
}

}  // namespace kdnative::cpu::amx
