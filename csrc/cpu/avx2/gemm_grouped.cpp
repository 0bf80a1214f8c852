// 4-bit and 2-bit weights x int8 on AVX2: blocks of up to 4 rows x (8 columns of the first 16 + 8 of the second).
//
// The codes u in [0, 2^bits) are the unsigned operand of vpmaddubsw as they are. A pair is at most 2 * 15 * 127 = 3810,
// so the pairs of 32 columns of k (8 steps) add up to at most 30480 in 16 bits before they are widened.
//
// Two-level weights differ in the scale of a group, an integer, and so in the sum over the groups. Codes that are
// multiplied by their group scale first, as in the 8-bit GEMM, would be too large for vpmaddubsw.
#include <type_traits>

#include "../simd/vec_avx2.h"
// These are written against Vec and come after it.
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "avx2.h"

namespace kdnative::cpu::avx2 {
namespace {

constexpr int kMaxRows = 4;

// Keeps GCC from computing the products of all rows first: they would not fit the registers beside the sums.
inline void in_order(__m256i& a, __m256i& b) { __asm__ volatile("" : "+x"(a), "+x"(b)); }

// Quads of k (four columns) in 64 bytes of codes.
template <int bits>
constexpr int kQuads = 4 / bits;

// u[t][j]: quad t, 8 of the 16 columns from 16 j on.
template <int bits>
inline void decode(__m256i packed, __m256i (&u)[kQuads<bits>][2]) {
  const __m256i mask = _mm256_set1_epi8((1 << bits) - 1);
  u[0][0] = _mm256_and_si256(packed, mask);
  u[0][1] = _mm256_and_si256(_mm256_srli_epi16(packed, bits), mask);
  if constexpr (bits == 2) {
    u[1][0] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), mask);
    u[1][1] = _mm256_and_si256(_mm256_srli_epi16(packed, 6), mask);
  }
}

// sum of -zero * (activations of the group): what the sums of a * u start from.
template <int bits>
inline __m256i initial_sum(const PackedLinear& w, int64_t g, int64_t c, int32_t total) {
  if (w.symmetric) return _mm256_set1_epi32(-(1 << (bits - 1)) * total);
  const __m128i zero = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w.zero + g * w.n_pad + c));
  return _mm256_mullo_epi32(_mm256_cvtepu8_epi32(zero), _mm256_set1_epi32(-total));
}

// sum += scale * dot for the groups' sums of 8 columns. The sums are fp32 bits, or int32 for two levels.
template <bool two_levels>
inline __m256i add_group(const PackedLinear& w, int64_t g, int64_t c, __m256i dot, __m256i sum) {
  const int64_t at = g * w.n_pad + c;
  if constexpr (two_levels) {
    const __m128i scale = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w.group_scale + at));
    return _mm256_add_epi32(sum, _mm256_mullo_epi32(dot, _mm256_cvtepu8_epi32(scale)));
  } else {
    const __m256 scale = _mm256_loadu_ps(w.scale + at);
    return _mm256_castps_si256(_mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, _mm256_castsi256_ps(sum)));
  }
}

template <int bits, bool two_levels, int rows>
void block(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t tile, int64_t half) {
  const int64_t c[2] = {tile * kTileN + half * 8, tile * kTileN + 16 + half * 8};
  const int64_t columns = w.group;
  const uint8_t* b = w.data + tile * w.k_pad * 4 * bits + half * 32;
  const int8_t* q = a.q + r * a.k_pad;
  const __m256i ones = _mm256_set1_epi16(1);
  for (const int64_t column : c) fetch_output(e, r, rows, column, 8);
  __m256i sum[rows][2];
  for (int i = 0; i < rows; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
  for (int64_t g = 0; g * columns < w.k; ++g) {
    __m256i dot[rows][2];
    for (int i = 0; i < rows; ++i) {
      const int32_t total = group_total(a, r + i, g * columns, columns);
      for (int j = 0; j < 2; ++j) dot[i][j] = initial_sum<bits>(w, g, c[j], total);
    }
    for (int64_t k = g * columns; k < (g + 1) * columns; k += 32) {
      __m256i part[rows][2];
      for (int i = 0; i < rows; ++i) part[i][0] = part[i][1] = _mm256_setzero_si256();
#pragma GCC unroll 2
      for (int64_t s = k; s < k + 32; s += 4 * kQuads<bits>) {
        __m256i u[kQuads<bits>][2];
        decode<bits>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + s * 4 * bits)), u);
        for (int t = 0; t < kQuads<bits>; ++t) {
          for (int i = 0; i < rows; ++i) {
            const __m256i x = _mm256_set1_epi32(load_quad(q + i * a.k_pad + s + 4 * t));
            part[i][0] = _mm256_add_epi16(part[i][0], _mm256_maddubs_epi16(u[t][0], x));
            part[i][1] = _mm256_add_epi16(part[i][1], _mm256_maddubs_epi16(u[t][1], x));
            in_order(part[i][0], part[i][1]);
          }
        }
      }
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < 2; ++j) dot[i][j] = _mm256_add_epi32(dot[i][j], _mm256_madd_epi16(part[i][j], ones));
      }
    }
    for (int j = 0; j < 2; ++j) {
      for (int i = 0; i < rows; ++i) sum[i][j] = add_group<two_levels>(w, g, c[j], dot[i][j], sum[i][j]);
    }
  }
  std::conditional_t<two_levels, int32_t, float> out[2][rows][8];
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < rows; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out[j][i]), sum[i][j]);
    if constexpr (two_levels) {
      write_sums(w, a, e, r, rows, c[j], 8, out[j][0], 8);
    } else {
      write_scaled(w, a, e, r, rows, c[j], 8, out[j][0], 8);
    }
  }
}

template <int bits, bool two_levels = false>
void gemm(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk) {
    const int64_t end = m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end;
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      for (int64_t half = 0; half < 2; ++half) {
        for_row_blocks<kMaxRows>(
            m, end, [&](int64_t r, auto rows) { block<bits, two_levels, rows.count>(w, a, e, r, tile, half); });
      }
    }
  }
}

}  // namespace

void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm<4>(w, a, e, range);
}

void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm<2>(w, a, e, range);
}

void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm<4, true>(w, a, e, range);
}

}  // namespace kdnative::cpu::avx2
