// Four outputs x sixteen rows at 256 bits: what the 4x1 kernels of AVX2 and AVX-VNNI have in common.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../kernels.h"

namespace kdnative::cpu::avx2 {
namespace {

constexpr int64_t kOutputs = 4;  // of a block
constexpr int64_t kLanes = 16;   // rows of activations that two vectors of sums hold for one output

// Sixteen rows (those from `rows` on count as zero) of 16 columns -> 16 columns of sixteen rows.
inline void transpose(const int8_t* q, int64_t ld, int64_t rows, __m128i (&x)[16]) {
  for (int i = 0; i < 16; ++i) {
    x[i] = i < rows ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + i * ld)) : _mm_setzero_si128();
  }
  // Four rounds of a perfect shuffle of the rows: each takes row i and row i + 8.
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
    __m128i y[16];
    for (int i = 0; i < 8; ++i) {
      y[2 * i] = _mm_unpacklo_epi8(x[i], x[i + 8]);
      y[2 * i + 1] = _mm_unpackhi_epi8(x[i], x[i + 8]);
    }
    for (int i = 0; i < 16; ++i) x[i] = y[i];
  }
}

// To dot[row][kTileN]. Each 128-bit half of sum[o][v] holds rows 8 half + 4 v ..: four outputs of a row go together.
inline void store_outputs(const __m256i (&sum)[kOutputs][2], int32_t* dot) {
  for (int v = 0; v < 2; ++v) {
    const __m256i a = _mm256_unpacklo_epi32(sum[0][v], sum[1][v]), b = _mm256_unpackhi_epi32(sum[0][v], sum[1][v]);
    const __m256i c = _mm256_unpacklo_epi32(sum[2][v], sum[3][v]), d = _mm256_unpackhi_epi32(sum[2][v], sum[3][v]);
    const __m256i rows[4] = {_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c), _mm256_unpacklo_epi64(b, d),
                             _mm256_unpackhi_epi64(b, d)};
    for (int i = 0; i < 4; ++i) {
      int32_t* to = dot + (4 * v + i) * kTileN;
      _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(rows[i]));
      _mm_store_si128(reinterpret_cast<__m128i*>(to + 8 * kTileN), _mm256_extracti128_si256(rows[i], 1));
    }
  }
}

}  // namespace
}  // namespace kdnative::cpu::avx2
