// Packed weights x bf16 activations on AMX tiles.
#include "../instruction_sets.h"
#include "../simd/vec_avx512.h"
// Written against Vec, so they come after it.
#include "../avx512bf16/gemm_a16_bf16.h"
#include "multiply.h"

namespace kdnative::cpu::amx {

void gemm_a16_bf16(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& range) {
  static_assert(kBf16Rows == kBlockRows, "one product is one block of tiles");
  Tiles tiles;
  bf16_gemm(w, a, e, range, [&](const Bf16Product& p) { multiply_bf16(p, tiles); });
}

}  // namespace kdnative::cpu::amx
