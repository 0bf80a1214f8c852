#include <arm_neon.h>

#include "../instruction_sets.h"

namespace kdnative::cpu::neon {

// tbl has tables of 64 bytes and gives 0 beyond them; tbx keeps what was there.
void look_up(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out) {
  uint8x16x4_t quarter[4];
  for (int q = 0; q < 4; ++q) quarter[q] = vld1q_u8_x4(table + 64 * q);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const uint8x16_t codes = vld1q_u8(x + i);
    uint8x16_t found = vqtbl4q_u8(quarter[0], codes);
    for (int q = 1; q < 4; ++q)
      found = vqtbx4q_u8(found, quarter[q], vsubq_u8(codes, vdupq_n_u8(static_cast<uint8_t>(64 * q))));
    vst1q_u8(out + i, found);
  }
  for (; i < n; ++i) out[i] = table[x[i]];
}

}  // namespace kdnative::cpu::neon
