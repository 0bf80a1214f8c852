#include "look_up.h"

#include "../features.h"
#include "../instruction_sets.h"

namespace kdnative::cpu::avx512vnni {

void look_up(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out) {
  (features().avx512vbmi2 ? look_up_vbmi : look_up_words)(x, n, table, out);
}

}  // namespace kdnative::cpu::avx512vnni
