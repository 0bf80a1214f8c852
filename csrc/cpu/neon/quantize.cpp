#include "../simd/vec_neon.h"
// These are written against Vec and come after it.
#include "../simd/quantize.h"
#include "neon.h"

namespace kdnative::cpu::neon {

void quantize_rows(const void* x, DType type, int64_t ld_x, int64_t rows, int64_t k, int64_t k_pad, int8_t* q,
                   int64_t ld_q, float* scale, int32_t* group_sum) {
  quantize_rows_generic(x, type, ld_x, rows, k, k_pad, q, ld_q, scale, group_sum);
}

}  // namespace kdnative::cpu::neon
