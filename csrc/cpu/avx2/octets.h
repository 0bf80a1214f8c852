// Octets of k, sorted by how much of their products 16 bits can hold.
//
// A lane of vpmaddubsw is the sum of two products of an unsigned byte (a weight + 128, at most 255) and a signed one
// (an activation). Nothing saturates while the positive ones of its activations sum to at most 128 and the negative
// ones to at least -128 (128 * 255 = 32640). An octet is two quads of k:
//
//   together   the lanes of both quads can even be added to each other in 16 bits
//   apart      they can't, but each holds its own two products
//   signs      some lane does not: these products must be made another way
//
// for each of the rows that are multiplied together. Sums over k may be taken in any order, so a block of rows has its
// octets sorted once, for all columns. Activations with few large values, which is what the layers of trained networks
// pass on, are nearly all `together`.
//
// Include it after vec_avx2.h and ints_avx2.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace kdnative::cpu::avx2 {
namespace {

constexpr int kMostRows = 3;  // that are multiplied together

// The octets of a block of rows: numbers of their first columns, divided by 8.
struct Octets {
  static constexpr int kKinds = 3;  // together, apart, signs
  // Their weights are fetched so many entries ahead of their use: the order is not that of memory.
  static constexpr int64_t kAhead = 8;
  uint16_t* list;  // kKinds lists, room() apart, each followed by kAhead zeros
  int64_t count[kKinds];
  int32_t sum[kMostRows];  // of the activations of each row, but for those of `signs`

  uint16_t* of(int kind, int64_t k_pad) const { return list + kind * room(k_pad); }
  static constexpr int64_t room(int64_t k_pad) { return k_pad / 8 + kAhead; }
  static constexpr int64_t bytes(int64_t k_pad) { return (kKinds * room(k_pad) * 2 + 63) / 64 * 64; }
};

// Rows of k_pad activations, ld bytes apart. `out->list` is set; everything else is filled in.
template <int rows>
inline void sort_octets(const int8_t* q, int64_t ld, int64_t k_pad, Octets* out) {
  const __m256i zero = _mm256_setzero_si256(), ones = _mm256_set1_epi8(1), words = _mm256_set1_epi16(1);
  const __m256i most = _mm256_set1_epi16(128), least = _mm256_set1_epi16(-128);
  uint16_t *together = out->of(0, k_pad), *apart = out->of(1, k_pad), *signs = out->of(2, k_pad);
  __m256i sum[rows];
  for (int i = 0; i < rows; ++i) sum[i] = zero;
  for (int64_t k = 0; k < k_pad; k += 32) {
    __m256i pairs[rows], large = zero, beyond = zero;
    for (int i = 0; i < rows; ++i) {
      const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + i * ld + k));
      // Two activations of different signs stay within 127, so that their sum tells as much as its two parts.
      pairs[i] = _mm256_maddubs_epi16(ones, x);
      const __m256i positive = _mm256_maddubs_epi16(ones, _mm256_max_epi8(x, zero));
      const __m256i negative = _mm256_sub_epi16(pairs[i], positive);
      const __m256i above = _mm256_add_epi16(positive, _mm256_shuffle_epi32(positive, 0xb1));  // of both quads
      const __m256i below = _mm256_add_epi16(negative, _mm256_shuffle_epi32(negative, 0xb1));
      large = _mm256_or_si256(large,
                              _mm256_or_si256(_mm256_cmpgt_epi16(pairs[i], most), _mm256_cmpgt_epi16(least, pairs[i])));
      beyond =
          _mm256_or_si256(beyond, _mm256_or_si256(_mm256_cmpgt_epi16(above, most), _mm256_cmpgt_epi16(least, below)));
    }
    const __m256i small = _mm256_cmpeq_epi64(large, zero);  // whole octets
    for (int i = 0; i < rows; ++i)
      sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_and_si256(pairs[i], small), words));
    const int not_large = _mm256_movemask_pd(_mm256_castsi256_pd(small));
    const int within = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(beyond, zero)));
    for (int o = 0; o < 4; ++o) {  // without branches: nothing could predict them
      const auto octet = static_cast<uint16_t>(k / 8 + o);
      *together = *apart = *signs = octet;
      together += within >> o & 1;
      apart += (not_large & ~within) >> o & 1;
      signs += (not_large >> o & 1) ^ 1;
    }
  }
  const uint16_t* ends[Octets::kKinds] = {together, apart, signs};
  for (int kind = 0; kind < Octets::kKinds; ++kind) {
    out->count[kind] = ends[kind] - out->of(kind, k_pad);
    std::memset(out->of(kind, k_pad) + out->count[kind], 0, Octets::kAhead * sizeof(uint16_t));
  }
  for (int i = 0; i < rows; ++i) out->sum[i] = reduce_add(Ints{sum[i]});
}

}  // namespace
}  // namespace kdnative::cpu::avx2
