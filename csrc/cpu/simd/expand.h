// Puts the bytes of a mask back in their places, eight at a time, for processors without an instruction that does it.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "expand_table.h"

namespace kdnative::cpu {
namespace {

// 64 dense bytes, signed, from the packed ones at `p`, which are 128 more; loads up to 8 bytes past the last one it
// needs.
inline void expand_bytes(const uint8_t* p, uint64_t mask, uint8_t* dense) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i, mask >>= 8, dense += 8) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m128i packed = _mm_xor_si128(bytes, _mm_set1_epi8(-128));
    const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpandTable.from[mask & 255]));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(dense), _mm_shuffle_epi8(packed, order));
    p += __builtin_popcountll(mask & 255);
  }
}

}  // namespace
}  // namespace kdnative::cpu
