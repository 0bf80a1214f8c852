// Bytes, a register of unsigned codes: 64 of them. Include vec_avx512.h and ints_avx512.h first.
//
// The operations are those of every bytes_*.h. A register is made of parts of 16 bytes, and zips stay within them: the
// four vectors that `widen` makes of a register hold, one after the other, four bytes of each part, and `narrow` takes
// them in that order.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace kdnative::cpu {
namespace {

// The first n of 64 bytes on (n may be beyond 0..64).
inline __mmask64 byte_mask(int64_t n) { return n <= 0 ? 0 : n >= 64 ? ~0ull : (1ull << n) - 1; }

struct Bytes {
  static constexpr int64_t width = 64;
  __m512i v;

  static Bytes zero() { return {_mm512_setzero_si512()}; }
  static Bytes set1(int32_t x) { return {_mm512_set1_epi8(static_cast<char>(x))}; }
  static Bytes load(const void* p) { return {_mm512_loadu_si512(p)}; }
  static Bytes load(const uint8_t* p, int64_t n) { return {_mm512_maskz_loadu_epi8(byte_mask(n), p)}; }
  static Bytes load_part(const uint8_t* p) {  // 16 bytes, in every part
    return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  void store(uint8_t* p) const { _mm512_storeu_si512(p, v); }
  void store(uint8_t* p, int64_t n) const { _mm512_mask_storeu_epi8(p, byte_mask(n), v); }
};

inline Bytes min(Bytes a, Bytes b) { return {_mm512_min_epu8(a.v, b.v)}; }
inline Bytes max(Bytes a, Bytes b) { return {_mm512_max_epu8(a.v, b.v)}; }
inline Bytes operator^(Bytes a, Bytes b) { return {_mm512_xor_si512(a.v, b.v)}; }
inline Bytes operator|(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
inline Bytes add_saturated(Bytes a, Bytes b) { return {_mm512_adds_epu8(a.v, b.v)}; }
// In every part, byte index % 16 of the table, and 0 where the index is 128 or more.
inline Bytes pick(Bytes table, Bytes index) { return {_mm512_shuffle_epi8(table.v, index.v)}; }

inline Bytes zip_low(Bytes a, Bytes b) { return {_mm512_unpacklo_epi8(a.v, b.v)}; }
inline Bytes zip_high(Bytes a, Bytes b) { return {_mm512_unpackhi_epi8(a.v, b.v)}; }
inline Bytes zip_pairs_low(Bytes a, Bytes b) { return {_mm512_unpacklo_epi16(a.v, b.v)}; }
inline Bytes zip_pairs_high(Bytes a, Bytes b) { return {_mm512_unpackhi_epi16(a.v, b.v)}; }

// As words of 16 bits: sums modulo 2^16, and the dot products of pairs, signed.
inline Bytes add_words(Bytes a, Bytes b) { return {_mm512_add_epi16(a.v, b.v)}; }
inline Ints pair_products(Bytes a, Bytes b) { return {_mm512_madd_epi16(a.v, b.v)}; }

inline Ints bits(Bytes a) { return {a.v}; }
inline Bytes bytes(Ints a) { return {a.v}; }
inline Ints operator-(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline Ints operator|(Ints a, Ints b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int count>
inline Ints shift_left(Ints a) {  // 32-bit lanes
  return {_mm512_slli_epi32(a.v, count)};
}
// Half to even; |v| is below 2^31.
inline Ints nearest(Vec v) { return {_mm512_cvtps_epi32(v.v)}; }
// Saturates.
inline Bytes narrow(const Ints (&q)[4]) {
  return {_mm512_packus_epi16(_mm512_packs_epi32(q[0].v, q[1].v), _mm512_packs_epi32(q[2].v, q[3].v))};
}

// Four floats for every part: those of part l are at p + l * step.
inline Vec load_fours(const float* p, int64_t step) {
  const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + step), 1);
  const __m256 high =
      _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + 2 * step)), _mm_loadu_ps(p + 3 * step), 1);
  return {_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)};
}

inline bool any(Mask m) { return m.m != 0; }
inline Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.m | b.m)}; }
inline Mask unordered(Vec a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline Mask no_lanes() { return {0}; }

}  // namespace
}  // namespace kdnative::cpu
