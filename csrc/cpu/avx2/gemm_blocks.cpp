// Blocks of four outputs x one input on AVX2.
//
// Rows of activations lie side by side as words, [k][16 rows]: two inputs interleave to pairs for vpmaddwd, which is
// exact (vpmaddubsw would saturate). The weights of a quad are widened to words once and broadcast in pairs.
#include "../simd/vec_avx2.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "../simd/epilogue.h"
#include "../simd/sparse_blocks.h"
#include "four_outputs.h"

namespace kdnative::cpu::avx2 {
namespace {

inline __m256i load(const int16_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }

// Sixteen rows of 16 columns as 16 columns of words.
void widen(const int8_t* q, int64_t ld, int64_t rows, int16_t* out) {
  __m128i x[16];
  transpose(q, ld, rows, x);
  for (int i = 0; i < 16; ++i) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + i * kLanes), _mm256_cvtepi8_epi16(x[i]));
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
      const __m256i x = load(panel + index[2 * half] * kLanes), y = load(panel + index[2 * half + 1] * kLanes);
      const __m256i low = _mm256_unpacklo_epi16(x, y), high = _mm256_unpackhi_epi16(x, y);
      for (int o = 0; o < kOutputs; ++o) {
        const __m256i w = _mm256_set1_epi32(pair[2 * o + half]);
        sum[o][0] = _mm256_add_epi32(sum[o][0], _mm256_madd_epi16(low, w));
        sum[o][1] = _mm256_add_epi32(sum[o][1], _mm256_madd_epi16(high, w));
      }
    }
  }
  store_outputs(sum, dot);
  return true;
}

const int16_t* panel_of(const uint8_t* panels, int64_t m, int64_t k_pad) {  // m: a multiple of kLanes
  return reinterpret_cast<const int16_t*>(panels + m / kPanelRows * panel_bytes(k_pad)) + m % kPanelRows * k_pad;
}

}  // namespace

void arrange_rows(const QuantizedRows& a, int64_t m_begin, int64_t m_end, uint8_t* panels) {
  for (int64_t m = m_begin; m < m_end; m += kLanes) {
    auto* panel = const_cast<int16_t*>(panel_of(panels, m, a.k_pad));
    for (int64_t k = 0; k < a.k_pad; k += 16) widen(a.q + m * a.ld + k, a.ld, m_end - m, panel + k * kLanes);
  }
}

bool gemm_blocks(const SparseLinear& w, const QuantizedRows& a, const uint8_t* panels, const Epilogue& e,
                 const GemmRange& range) {
  return for_blocks<kLanes>(
      w, a, e, range, [&](int64_t m) { return panel_of(panels, m, a.k_pad); },
      [&](const auto* panel, int64_t, const FourOutputs& block, int32_t* dot) {
        return block_row(panel, block.values, block.index, block.quads, w.layer.k_pad, dot);
      });
}

}  // namespace kdnative::cpu::avx2
