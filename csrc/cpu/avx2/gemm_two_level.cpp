#include "../simd/vec_avx2.h"

// Written against Vec, so it comes after it.
#include "../simd/two_level.h"
#include "avx2.h"

namespace kdnative::cpu::avx2 {

void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm_two_level_impl(w, a, e, range, gemm_w8a8);
}

}  // namespace kdnative::cpu::avx2
