// Blocks of four outputs x one input on AVX2.
//
// Rows of activations lie side by side as words, [k][16 rows]: two inputs interleave to pairs for vpmaddwd, which is
// exact (vpmaddubsw would saturate). The weights of a quad are widened to words once and broadcast in pairs.
#include "../simd/vec_avx2.h"
// These are written against Vec and come after it.
#include "../simd/epilogue.h"
#include "avx2.h"

namespace kdnative::cpu::avx2 {
namespace {

constexpr int64_t kOutputs = 4;  // of a block
constexpr int64_t kRows = 16;    // of a panel: kPanelRows rows are four of them

inline __m256i load(const int16_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }

// Sixteen rows (those from `rows` on count as zero) of 16 columns -> 16 columns of sixteen rows, as words.
void transpose(const int8_t* q, int64_t ld, int64_t rows, int16_t* out) {
  __m128i x[16];
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
  for (int i = 0; i < 16; ++i) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + i * kRows), _mm256_cvtepi8_epi16(x[i]));
  }
}

// Four outputs of sixteen rows, to dot[row][kTileN]; false when an index is beyond k_pad.
bool block_row(const int16_t* panel, const int8_t* values, const uint16_t* index, int64_t quads, int64_t k_pad,
               int32_t* dot) {
  __m256i sum[kOutputs][2];
  for (int o = 0; o < kOutputs; ++o) sum[o][0] = sum[o][1] = _mm256_setzero_si256();
  for (int64_t q = 0; q < quads; ++q, values += 16, index += 4) {
    if (index[0] >= k_pad || index[1] >= k_pad || index[2] >= k_pad || index[3] >= k_pad) return false;
    alignas(32) int32_t pair[8];  // of weights as words: first and second of each output
    _mm256_store_si256(reinterpret_cast<__m256i*>(pair),
                       _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values))));
    for (int half = 0; half < 2; ++half) {
      const __m256i x = load(panel + index[2 * half] * kRows), y = load(panel + index[2 * half + 1] * kRows);
      const __m256i low = _mm256_unpacklo_epi16(x, y), high = _mm256_unpackhi_epi16(x, y);
      for (int o = 0; o < kOutputs; ++o) {
        const __m256i w = _mm256_set1_epi32(pair[2 * o + half]);
        sum[o][0] = _mm256_add_epi32(sum[o][0], _mm256_madd_epi16(low, w));
        sum[o][1] = _mm256_add_epi32(sum[o][1], _mm256_madd_epi16(high, w));
      }
    }
  }
  // Each 128-bit half of sum[o][v] holds rows 8 half + 4 v ..: four outputs of a row go together.
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
  return true;
}

const int16_t* panel_of(const uint8_t* panels, int64_t m, int64_t k_pad) {  // m: a multiple of kRows
  return reinterpret_cast<const int16_t*>(panels + m / kPanelRows * panel_bytes(k_pad)) + m % kPanelRows * k_pad;
}

}  // namespace

void arrange_rows(const QuantizedRows& a, int64_t m_begin, int64_t m_end, uint8_t* panels) {
  for (int64_t m = m_begin; m < m_end; m += kRows) {
    auto* panel = const_cast<int16_t*>(panel_of(panels, m, a.k_pad));
    for (int64_t k = 0; k < a.k_pad; k += 16) transpose(a.q + m * a.k_pad + k, a.k_pad, m_end - m, panel + k * kRows);
  }
}

bool gemm_blocks(const SparseLinear& w, const QuantizedRows& a, const uint8_t* panels, const Epilogue& e,
                 const GemmRange& range) {
  alignas(64) int32_t dot[kRows * kTileN];
  for (int64_t m = range.m_begin; m < range.m_end; m += kRows) {
    const int16_t* panel = panel_of(panels, m, a.k_pad);
    const int64_t rows = range.m_end - m < kRows ? range.m_end - m : kRows;
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      fetch_output(e, m, rows, tile * kTileN, kTileN);
      for (int64_t b = 0; b < kTileN / kOutputs; ++b) {
        const int64_t* start = w.start + tile * (kTileN / kOutputs) + b;
        const auto* values = reinterpret_cast<const int8_t*>(w.values) + 16 * start[0];
        if (!block_row(panel, values, w.index + 4 * start[0], start[1] - start[0], w.layer.k_pad, dot + b * kOutputs))
          return false;
      }
      write_sums(w.layer, a, e, m, rows, tile * kTileN, kTileN, dot, kTileN);
    }
  }
  return true;
}

}  // namespace kdnative::cpu::avx2
