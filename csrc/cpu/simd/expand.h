// Puts the bytes of a mask back in their places, eight at a time, for processors without an instruction that does it.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace kdnative::cpu {
namespace {

struct ExpandTable {  // for every mask of eight bytes: which of the packed bytes goes where; 0x80 is a zero
  uint8_t from[256][8];
};

constexpr ExpandTable make_expand_table() {
  ExpandTable table{};
  for (int mask = 0; mask < 256; ++mask) {
    uint8_t next = 0;
    for (int i = 0; i < 8; ++i) table.from[mask][i] = mask >> i & 1 ? next++ : uint8_t{0x80};
  }
  return table;
}

alignas(64) constexpr ExpandTable kExpandTable = make_expand_table();

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
