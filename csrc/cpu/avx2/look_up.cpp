#include "../instruction_sets.h"
#include "../simd/vec_avx2.h"
// These are written against Vec and come after it.
#include "../simd/ints_avx2.h"
// These are written against Ints and come after it.
#include "../simd/bytes_avx2.h"
#include "../simd/look_up.h"

namespace kdnative::cpu::avx2 {

void look_up(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out) { look_up_parts(x, n, table, out); }

}  // namespace kdnative::cpu::avx2
