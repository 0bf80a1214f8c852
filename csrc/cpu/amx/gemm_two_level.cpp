#include "../instruction_sets.h"
#include "../simd/vec_avx512.h"

// Written against Vec, so it comes after it.
#include "../simd/two_level.h"

namespace kdnative::cpu::amx {

void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm_two_level_impl(w, a, e, range, gemm_w8a8);
}

}  // namespace kdnative::cpu::amx
