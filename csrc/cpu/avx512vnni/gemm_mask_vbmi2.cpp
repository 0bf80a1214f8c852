// Masks with the byte expansion of VBMI2, which only this file may use.
#pragma GCC target("avx512vbmi2")

#include "../simd/vec_avx512.h"
#include "gemm_mask.h"
// This is written against Vec and comes after it.
#include "mask_block.h"

namespace kdnative::cpu::avx512vnni {
namespace {

// The packed bytes in their places, `fill` everywhere else.
//
// Two things that the compiler would do differently: expanding straight from memory takes four times as long, and the
// instruction waits for what was in its destination, even where that is zeroed (both measured on Zen 5).
inline __m512i expand(__m512i packed, uint64_t mask, int8_t fill) {
  __m512i dense = _mm512_set1_epi8(fill);
  __asm__("" : "+v"(packed), "+v"(dense));
  return _mm512_mask_expand_epi8(dense, mask, packed);
}

struct Wide {  // operands as unsigned bytes
  static __m512i load(const uint8_t* p, uint64_t mask, int64_t) { return expand(_mm512_loadu_si512(p), mask, -128); }
};

// For masks that rarely keep more than 32 bytes: a load of 64 almost always touches two cache lines.
struct Narrow {
  static __m512i load(const uint8_t* p, uint64_t mask, int64_t count) {
    if (count > 32) [[unlikely]]
      return Wide::load(p, mask, count);
    return expand(_mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), mask, -128);
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

bool expand_codes_vbmi2(const SparseLinear& w, int64_t tile, uint8_t* dense) {
  return expand_tile_codes(
      w, tile, dense, [](const uint8_t* low, uint64_t low_mask, const uint8_t* high, uint64_t high_mask, uint8_t* out) {
        const __m512i nibble = _mm512_set1_epi8(15), zero = _mm512_set1_epi8(static_cast<char>(0x88));
        const __m512i below = _mm512_and_si512(nibble, expand(_mm512_loadu_si512(low), low_mask, 0));
        const __m512i above = _mm512_andnot_si512(nibble, expand(_mm512_loadu_si512(high), high_mask, 0));
        _mm512_store_si512(out, _mm512_xor_si512(_mm512_or_si512(below, above), zero));
      });
}

bool gemm_mask_vbmi2(const SparseLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  return mostly_narrow(w) ? mask_gemm<Narrow>(w, a, e, range) : mask_gemm<Wide>(w, a, e, range);
}

}  // namespace kdnative::cpu::avx512vnni
