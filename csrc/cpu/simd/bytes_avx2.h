// Bytes, a register of unsigned codes: 32 of them. Include vec_avx2.h and ints_avx2.h first. The operations and the
// order of the four vectors of a register are those of bytes_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace kdnative::cpu {
namespace {

struct Bytes {
  static constexpr int64_t width = 32;
  __m256i v;

  static Bytes zero() { return {_mm256_setzero_si256()}; }
  static Bytes set1(int32_t x) { return {_mm256_set1_epi8(static_cast<char>(x))}; }
  static Bytes load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
  static Bytes load(const uint8_t* p, int64_t n) {
    uint8_t all[width] = {};
    std::memcpy(all, p, static_cast<size_t>(n < width ? n : width));
    return load(all);
  }
  static Bytes load_part(const uint8_t* p) {  // 16 bytes, in every part
    return {_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  void store(uint8_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  void store(uint8_t* p, int64_t n) const {
    if (n >= width) return store(p);
    uint8_t all[width];
    store(all);
    std::memcpy(p, all, static_cast<size_t>(n));
  }
};

inline Bytes min(Bytes a, Bytes b) { return {_mm256_min_epu8(a.v, b.v)}; }
inline Bytes max(Bytes a, Bytes b) { return {_mm256_max_epu8(a.v, b.v)}; }
inline Bytes operator^(Bytes a, Bytes b) { return {_mm256_xor_si256(a.v, b.v)}; }
inline Bytes operator|(Bytes a, Bytes b) { return {_mm256_or_si256(a.v, b.v)}; }
inline Bytes add_saturated(Bytes a, Bytes b) { return {_mm256_adds_epu8(a.v, b.v)}; }
inline Bytes pick(Bytes table, Bytes index) { return {_mm256_shuffle_epi8(table.v, index.v)}; }

inline Bytes zip_low(Bytes a, Bytes b) { return {_mm256_unpacklo_epi8(a.v, b.v)}; }
inline Bytes zip_high(Bytes a, Bytes b) { return {_mm256_unpackhi_epi8(a.v, b.v)}; }
inline Bytes zip_pairs_low(Bytes a, Bytes b) { return {_mm256_unpacklo_epi16(a.v, b.v)}; }
inline Bytes zip_pairs_high(Bytes a, Bytes b) { return {_mm256_unpackhi_epi16(a.v, b.v)}; }

inline Bytes add_words(Bytes a, Bytes b) { return {_mm256_add_epi16(a.v, b.v)}; }
inline Ints pair_products(Bytes a, Bytes b) { return {_mm256_madd_epi16(a.v, b.v)}; }

inline Ints bits(Bytes a) { return {a.v}; }
inline Bytes bytes(Ints a) { return {a.v}; }
inline Ints operator-(Ints a, Ints b) { return {_mm256_sub_epi32(a.v, b.v)}; }
inline Ints operator|(Ints a, Ints b) { return {_mm256_or_si256(a.v, b.v)}; }
template <int count>
inline Ints shift_left(Ints a) {  // 32-bit lanes
  return {_mm256_slli_epi32(a.v, count)};
}
inline Ints nearest(Vec v) { return {_mm256_cvtps_epi32(v.v)}; }
inline Bytes narrow(const Ints (&q)[4]) {
  return {_mm256_packus_epi16(_mm256_packs_epi32(q[0].v, q[1].v), _mm256_packs_epi32(q[2].v, q[3].v))};
}

inline Vec load_fours(const float* p, int64_t step) {
  return {_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + step), 1)};
}

inline bool any(Mask m) { return _mm256_movemask_ps(m.m) != 0; }
inline Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.m, b.m)}; }
inline Mask unordered(Vec a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
inline Mask no_lanes() { return {_mm256_setzero_ps()}; }

}  // namespace
}  // namespace kdnative::cpu
