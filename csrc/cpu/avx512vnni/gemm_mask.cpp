// Masks on AVX-512 VNNI. VBMI2 puts bytes in their places by one instruction; the first processors with VNNI (Cascade
// Lake, Cooper Lake) lack it and take the way of AVX2.
#include "../features.h"
#include "../simd/expand.h"
#include "../simd/mask_stream.h"
#include "../simd/vec_avx512.h"
// This is written against Vec and comes after it.
#include "mask_block.h"
// Declarations only.
#include "../instruction_sets.h"
#include "gemm_mask.h"

namespace kdnative::cpu::avx512vnni {
namespace {

struct Lookup {
  static __m512i load(const uint8_t* p, uint64_t mask, int64_t) {
    alignas(64) uint8_t dense[64];
    expand_bytes(p, mask, dense);
    return _mm512_xor_si512(_mm512_load_si512(dense), _mm512_set1_epi8(-128));
  }
};

}  // namespace

bool expand_mask_table(const SparseLinear& w, int64_t tile, int8_t* dense) {
  return expand_tile(w, tile, dense, [](const uint8_t* p, uint64_t mask, uint8_t* out) { expand_bytes(p, mask, out); });
}

bool gemm_mask_table(const SparseLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  return mask_gemm<Lookup>(w, a, e, range);
}

bool expand_mask(const SparseLinear& w, int64_t tile, int8_t* dense) {
  return features().avx512vbmi2 ? expand_mask_vbmi2(w, tile, dense) : expand_mask_table(w, tile, dense);
}

bool gemm_mask(const SparseLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  return features().avx512vbmi2 ? gemm_mask_vbmi2(w, a, e, range) : gemm_mask_table(w, a, e, range);
}

}  // namespace kdnative::cpu::avx512vnni
