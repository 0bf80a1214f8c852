// Masks with the byte expansion of VBMI2, which only this file may use.
#pragma GCC target("avx512vbmi2")

#include "../simd/vec_avx512.h"
#include "gemm_mask.h"
// This is written against Vec and comes after it.
#include "mask_block.h"

namespace kdnative::cpu::avx512vnni {
namespace {

// The packed bytes in their places, 128 everywhere else.
//
// Two things that the compiler would do differently: expanding straight from memory takes four times as long, and the
// instruction waits for what was in its destination, even where that is zeroed (both measured on Zen 5).
inline __m512i expand(__m512i packed, uint64_t mask) {
  __m512i dense = _mm512_set1_epi8(-128);
  __asm__("" : "+v"(packed), "+v"(dense));
  return _mm512_mask_expand_epi8(dense, mask, packed);
}

struct Wide {  // operands as unsigned bytes
  static __m512i load(const uint8_t* p, uint64_t mask, int64_t) { return expand(_mm512_loadu_si512(p), mask); }
};

// For masks that rarely keep more than 32 bytes: a load of 64 almost always touches two cache lines.
struct Narrow {
  static __m512i load(const uint8_t* p, uint64_t mask, int64_t count) {
    if (count > 32) [[unlikely]]
      return Wide::load(p, mask, count);
    return expand(_mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), mask);
  }
};

bool mostly_narrow(const SparseLinear& w) {  // at most 3/8 of the weights kept
  return w.start[w.layer.n_pad / 16] * 8 <= w.layer.n_pad * w.layer.k_pad * 3;
}

}  // namespace

bool expand_mask_vbmi2(const SparseLinear& w, int64_t tile, int8_t* dense) {
  return expand_tile(w, tile, dense, [](const uint8_t* p, uint64_t mask, uint8_t* out) {
    _mm512_store_si512(out, _mm512_xor_si512(Wide::load(p, mask, 64), _mm512_set1_epi8(-128)));
  });
}

bool gemm_mask_vbmi2(const SparseLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  return mostly_narrow(w) ? mask_gemm<Narrow>(w, a, e, range) : mask_gemm<Wide>(w, a, e, range);
}

}  // namespace kdnative::cpu::avx512vnni
