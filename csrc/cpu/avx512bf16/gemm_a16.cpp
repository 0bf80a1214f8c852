// Packed weights x bf16 activations on the dot products of bf16 pairs.
#include "../instruction_sets.h"
#include "../simd/vec_avx512.h"
// Written against Vec, so they come after it.
#include "gemm_a16_bf16.h"
#include "multiply.h"

namespace kdnative::cpu::avx512bf16 {

void gemm_a16_bf16(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& range) {
  bf16_gemm(w, a, e, range, multiply<12>);
}

}  // namespace kdnative::cpu::avx512bf16
