// Masks on Advanced SIMD: bytes go back to their places eight at a time, by a table.
#include <arm_neon.h>

#include "../instruction_sets.h"
#include "../simd/expand_table.h"
#include "../simd/mask_stream.h"

namespace kdnative::cpu::neon {
namespace {

// 64 dense bytes, signed, from the packed ones at `p`, which are 128 more; loads up to 8 bytes past the last one it
// needs.
void expand_bytes(const uint8_t* p, uint64_t mask, uint8_t* dense) {
  for (int i = 0; i < 8; ++i, mask >>= 8, dense += 8) {
    const uint8x8_t packed = veor_u8(vld1_u8(p), vdup_n_u8(0x80));
    vst1_u8(dense, vtbl1_u8(packed, vld1_u8(kExpandTable.from[mask & 255])));  // beyond the table: 0
    p += __builtin_popcountll(mask & 255);
  }
}

}  // namespace

bool expand_mask(const SparseLinear& w, int64_t tile, int8_t* dense) {
  return expand_tile(w, tile, dense, expand_bytes);
}

}  // namespace kdnative::cpu::neon
