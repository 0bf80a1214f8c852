#include "../simd/vec_scalar.h"

// Written against Vec, so it comes after it.
#include "../simd/gemm_a16.h"
#include "reference.h"

namespace kdnative::cpu::reference {

void convert_rows(const void* x, DType type, int64_t ld_x, int64_t rows, int64_t k, void* out, DType out_type,
                  int64_t ld_out) {
  convert_rows_impl(x, type, ld_x, rows, k, out, out_type, ld_out);
}

void gemm_a16(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& range) {
  gemm_a16_impl(w, a, e, range);
}

}  // namespace kdnative::cpu::reference
