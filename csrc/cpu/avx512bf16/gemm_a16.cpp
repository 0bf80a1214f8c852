// Packed weights x bf16 activations on the dot products of bf16 pairs.
#include "../avx512vnni/avx512vnni.h"
#include "../simd/vec_avx512.h"
// Written against Vec, so they come after it.
#include "avx512bf16.h"
#include "gemm_a16_bf16.h"
#include "multiply.h"

namespace kdnative::cpu::avx512bf16 {

void gemm_a16(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& range) {
  if (a.type == DType::f32) return avx512vnni::gemm_a16(w, a, e, range);
  gemm_a16_bf16(w, a, e, range, multiply<12>);
}

}  // namespace kdnative::cpu::avx512bf16
