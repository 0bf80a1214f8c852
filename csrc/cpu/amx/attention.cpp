// Attention on AMX bf16 tiles.
#include "../simd/vec_avx512.h"
// Written against Vec, so it comes after it.
#include "../avx512bf16/attention_bf16.h"
#include "../instruction_sets.h"
#include "multiply.h"

namespace kdnative::cpu::amx {

void attention(const AttentionArgs& a, int32_t head_begin, int32_t head_end) {
  static_assert(kQueryBlock == kBlockRows, "a block of queries is a block of tiles");
  Tiles tiles;
  attention_bf16(a, head_begin, head_end, kBlockRows, [&](const Bf16Product& p) { multiply_bf16(p, tiles); });
}

}  // namespace kdnative::cpu::amx
