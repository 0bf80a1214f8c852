// Blocks of four outputs x one input on AVX-VNNI.
//
// Rows of activations lie side by side, [k][32 rows]: the four inputs of a quad are four loads, which byte unpacking
// turns into operands of vpdpbusd (in each lane one row's four inputs), shared by the four outputs. Weights are
// broadcast. Sixteen registers hold the sums of half a panel: the lower bytes of both halves of a load make rows 0 to
// 15, the upper ones rows 16 to 31, and a batch of few rows needs the first only.
#include "dot.h"
// These are written against Vec and Ints and come after them.
#include "../avx2/four_outputs.h"
#include "../instruction_sets.h"
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "../simd/sparse_blocks.h"

namespace kdnative::cpu::avxvnni {
namespace {

using avx2::kLanes;
using avx2::kOutputs;

constexpr int64_t kRows = 32;  // of a panel: kPanelRows rows are two of them

inline __m256i load(const uint8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }

template <bool upper>
inline __m256i unpack_bytes(__m256i a, __m256i b) {
  return upper ? _mm256_unpackhi_epi8(a, b) : _mm256_unpacklo_epi8(a, b);
}

// Four outputs of the first or last sixteen rows of a panel, to dot[row][kTileN].
template <bool upper>
void block_row(const uint8_t* panel, const int8_t* values, const uint16_t* index, int64_t quads,
               const int32_t* column_sum, int32_t* dot) {
  Ints sum[kOutputs][2];
  // Vector arithmetic wraps: a damaged buffer may hold any sum.
  for (int o = 0; o < kOutputs; ++o) sum[o][0] = sum[o][1] = Ints::set1(column_sum[o]) * Ints::set1(-128);
  for (int64_t q = 0; q < quads; ++q, values += 16, index += 4) {
    const __m256i first = unpack_bytes<upper>(load(panel + index[0] * kRows), load(panel + index[1] * kRows));
    const __m256i last = unpack_bytes<upper>(load(panel + index[2] * kRows), load(panel + index[3] * kRows));
    const Ints x[2] = {{_mm256_unpacklo_epi16(first, last)}, {_mm256_unpackhi_epi16(first, last)}};
    for (int o = 0; o < kOutputs; ++o) {
      const Ints w = Ints::set1(load_quad(values + 4 * o));
      for (int v = 0; v < 2; ++v) sum[o][v] = Dot::add_products(sum[o][v], x[v], w);
    }
  }
  __m256i sums[kOutputs][2];
  for (int o = 0; o < kOutputs; ++o)
    for (int v = 0; v < 2; ++v) sums[o][v] = sum[o][v].v;
  avx2::store_outputs(sums, dot);
}

// Whether all indices of some quads are below `limit`.
bool in_range(const uint16_t* index, int64_t quads, int64_t limit) {
  __m128i largest = _mm_setzero_si128();
  for (int64_t q = 0; q < quads; ++q) {
    largest = _mm_max_epu16(largest, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(index + 4 * q)));
  }
  const __m128i last = _mm_set1_epi16(static_cast<int16_t>(limit < 65536 ? limit - 1 : 65535));
  const __m128i beyond = _mm_subs_epu16(largest, last);
  return _mm_testz_si128(beyond, beyond) != 0;
}

const uint8_t* panel_of(const uint8_t* panels, int64_t m, int64_t k_pad) {  // m: a multiple of kRows
  return panels + m / kPanelRows * panel_bytes(k_pad) + m % kPanelRows * k_pad;
}

}  // namespace

void arrange_rows(const QuantizedRows& a, int64_t m_begin, int64_t m_end, uint8_t* panels) {
  const __m128i top = _mm_set1_epi8(-128);  // bytes become unsigned by flipping the top bit
  for (int64_t m = m_begin; m < m_end; m += kLanes) {
    uint8_t* panel = const_cast<uint8_t*>(panel_of(panels, m / kRows * kRows, a.k_pad)) + m % kRows / 2;
    for (int64_t k = 0; k < a.k_pad; k += 16) {
      __m128i x[16];
      avx2::transpose(a.q + m * a.ld + k, a.ld, m_end - m, x);
      for (int i = 0; i < 16; ++i) {
        const __m128i column = _mm_xor_si128(x[i], top);
        uint8_t* to = panel + (k + i) * kRows;
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), column);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 16), _mm_unpackhi_epi64(column, column));
      }
    }
  }
}

bool gemm_blocks(const SparseLinear& w, const QuantizedRows& a, const uint8_t* panels, const Epilogue& e,
                 const GemmRange& range) {
  return for_blocks<kRows>(
      w, a, e, range, [&](int64_t m) { return panel_of(panels, m, a.k_pad); },
      [&](const auto* panel, int64_t rows, const FourOutputs& block, int32_t* dot) {
        const int32_t* column_sum = w.layer.column_sum + block.first;
        if (!in_range(block.index, block.quads, w.layer.k_pad)) return false;
        block_row<false>(panel, block.values, block.index, block.quads, column_sum, dot);
        if (rows > kLanes)
          block_row<true>(panel, block.values, block.index, block.quads, column_sum, dot + kLanes * kTileN);
        return true;
      });
}

}  // namespace kdnative::cpu::avxvnni
