// Ceiling of the 8-bit matrix multiply: see ../roofline.h.
#include "../instruction_sets.h"
#include "../neon/burst.h"

namespace kdnative::cpu::i8mm {

// One smmla is 32 multiply-accumulates.
int64_t int8_burst(int64_t rounds) {
  return 32 * 2 * neon::burst(rounds, [](int32x4_t sum, int8x16_t a, int8x16_t b) { return vmmlaq_s32(sum, a, b); });
}

}  // namespace kdnative::cpu::i8mm
