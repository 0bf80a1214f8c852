// VBMI has tables of 128 bytes; the first processors with VNNI (Cascade Lake, Cooper Lake) lack it and take the way of
// AVX2.
#include "../features.h"
#include "../instruction_sets.h"
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/ints_avx512.h"
// These are written against Ints and come after it.
#include "../simd/bytes_avx512.h"
#include "../simd/look_up.h"
// A declaration only.
#include "look_up.h"

namespace kdnative::cpu::avx512vnni {

void look_up(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out) {
  if (features().avx512vbmi2) return look_up_vbmi(x, n, table, out);  // every processor with VBMI2 has VBMI
  look_up_parts(x, n, table, out);
}

}  // namespace kdnative::cpu::avx512vnni
