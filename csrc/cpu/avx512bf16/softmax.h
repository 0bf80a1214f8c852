// The online softmax of attention (Milakov and Gimelshein 2018), sixteen query rows at a time: what is one number a row
// (largest score, sum of weights, factors between blocks of keys) is one lane of a vector. Include it after
// vec_avx512.h.
#pragma once

#include <cstdint>

#include "../simd/vec_avx512.h"

namespace kdnative::cpu {
namespace {

constexpr int64_t kSoftmaxRows = 16;

// Two rows' worth of 16 floats as 32 bf16: low lanes first.
inline __m512i as_bf16(__m512 low, __m512 high) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)); }

// 2^x for x <= 0, relative error below 3e-6, where the weights keep 8 bits; 0 far below 0, -infinity too. The
// coefficients are a relative minimax fit.
inline Vec exp2_negative(Vec x) {
  constexpr float kSeries[] = {1.0f, 0x1.62e12cp-1f, 0x1.ec0378p-3f, 0x1.c9fc46p-5f, 0x1.3a02ccp-7f};
  const Vec bounded = max(Vec::set1(-200.0f), x), n = round(bounded);
  Vec y = Vec::set1(kSeries[4]);
  const Vec f = bounded - n;
  for (int i = 3; i >= 0; --i) y = fma(y, f, Vec::set1(kSeries[i]));
  return {_mm512_scalef_ps(y.v, n.v)};
}

// Lane i of the result: all lanes of v[i] put together by `join`. One row after the other would wait four times for the
// latency of shuffling and joining; here that wait is shared by sixteen rows.
template <typename Join>
inline Vec fold(const Vec (&v)[16], const Join& join) {
  Vec a[8], b[4], c[2];
  for (int i = 0; i < 8; ++i) {  // halves: v[i], v[i + 8]
    const __m512 x = v[i].v, y = v[i + 8].v;
    a[i] = join(Vec{_mm512_shuffle_f32x4(x, y, 0x44)}, Vec{_mm512_shuffle_f32x4(x, y, 0xee)});
  }
  for (int i = 0; i < 4; ++i) {  // quarters: v[i], v[i + 4], v[i + 8], v[i + 12]
    const __m512 x = a[i].v, y = a[i + 4].v;
    b[i] = join(Vec{_mm512_shuffle_f32x4(x, y, 0x88)}, Vec{_mm512_shuffle_f32x4(x, y, 0xdd)});
  }
  for (int i = 0; i < 2; ++i) {
    const __m512d x = _mm512_castps_pd(b[i].v), y = _mm512_castps_pd(b[i + 2].v);
    c[i] = join(Vec{_mm512_castpd_ps(_mm512_unpacklo_pd(x, y))}, Vec{_mm512_castpd_ps(_mm512_unpackhi_pd(x, y))});
  }
  const __m512 x = c[0].v, y = c[1].v;
  const Vec all = join(Vec{_mm512_shuffle_ps(x, y, 0x88)}, Vec{_mm512_shuffle_ps(x, y, 0xdd)});
  return {_mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15), all.v)};
}

// Lanes of scores[0, n), n > 0, that are the largest of their column of 16.
inline Vec largest_lanes(const float* scores, int64_t n) {
  Vec largest = Vec::set1(-__builtin_inff());
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) largest = max(Vec::load(scores + i), largest);
  if (i == n) return largest;
  return max(Vec{_mm512_mask_loadu_ps(largest.v, lane_mask(n - i), scores + i)}, largest);
}

// Turns scores[0, n) into weights 2^(score / ln 2 - base), bf16, 0 up to `padded`; returns sums whose sum is theirs.
inline Vec weigh(const float* scores, int64_t n, int64_t padded, float base, uint16_t* weights) {
  const Vec log2e = Vec::set1(0x1.715476p+0f), shift = Vec::set1(-base);
  const auto weight = [&](int64_t i) { return exp2_negative(fma(Vec::load(scores + i), log2e, shift)); };
  Vec sum[2] = {Vec::zero(), Vec::zero()};
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const Vec low = weight(i), high = weight(i + 16);
    sum[0] = sum[0] + low;
    sum[1] = sum[1] + high;
    _mm512_storeu_si512(weights + i, as_bf16(low.v, high.v));
  }
  for (; i < padded; i += 32) {
    Vec e[2];
    for (int h = 0; h < 2; ++h) {
      e[h] = {_mm512_maskz_mov_ps(lane_mask(n - i - 16 * h), weight(i + 16 * h).v)};
      sum[h] = sum[h] + e[h];
    }
    _mm512_storeu_si512(weights + i, as_bf16(e[0].v, e[1].v));
  }
  return sum[0] + sum[1];
}

// Sixteen rows on their way through the blocks of keys.
struct SoftmaxRows {
  Vec top, total;  // largest score so far, in units of ln 2, and the sum of weights relative to it
  Vec factor;      // what weighted sums so far must be multiplied with

  // The first or next `n` keys of `rows` rows, ld_scores apart.
  void add(const float* scores, int64_t ld_scores, int64_t rows, int64_t n, int64_t padded, bool first,
           uint16_t* weights) {
    const Vec never = Vec::set1(-__builtin_inff());
    alignas(64) float base[kSoftmaxRows];
    Vec lanes[kSoftmaxRows];
    for (int64_t r = 0; r < kSoftmaxRows; ++r)
      lanes[r] = r < rows ? largest_lanes(scores + r * ld_scores, n) : Vec::zero();
    Vec next = fold(lanes, [](Vec a, Vec b) { return max(a, b); }) * Vec::set1(0x1.715476p+0f);
    if (!first) next = max(next, top);
    // A window may leave no key of this block: every weight is 0 then, whatever is taken off the scores.
    const Vec off = select(next == never, Vec::zero(), next);
    off.store(base);
    for (int64_t r = 0; r < kSoftmaxRows; ++r)
      lanes[r] = r < rows ? weigh(scores + r * ld_scores, n, padded, base[r], weights + r * ld_scores) : Vec::zero();
    const Vec sum = fold(lanes, [](Vec a, Vec b) { return a + b; });
    factor = first ? Vec::zero() : exp2_negative(top - off);
    total = first ? sum : total * factor + sum;
    top = next;
  }
};

}  // namespace
}  // namespace kdnative::cpu
