// Blocks of four outputs x one input on AVX-512 VNNI.
//
// Rows of activations lie side by side, [k][rows]: the four inputs of a quad are four loads, which byte unpacking turns
// into operands of vpdpbusd (in each lane one row's four inputs), shared by the four outputs. Weights are broadcast.
// A panel has 16, 32 or 64 rows, so that a batch of a few rows does not pay for 64.
#include <cstring>

#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "dot.h"

namespace kdnative::cpu::avx512vnni {
namespace {

constexpr int64_t kOutputs = 4;  // of a block

int64_t panel_rows(int64_t rows) { return rows > 32 ? 64 : rows > 16 ? 32 : 16; }

// -- laying out the activations ---------------------------------------------------------------------------------------

inline void unpack_bytes(__m512i& a, __m512i& b) {
  const __m512i low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b);
  a = low, b = high;
}

// Sixteen rows (those from `rows` on count as zero) of 64 columns -> 64 columns of sixteen rows, as unsigned bytes.
void transpose(const int8_t* q, int64_t ld, int64_t rows, uint8_t* out, int64_t width) {
  __m512i x[16];
  for (int i = 0; i < 16; ++i) {
    const __m512i row = i < rows ? _mm512_loadu_si512(q + i * ld) : _mm512_setzero_si512();
    x[i] = _mm512_xor_si512(row, _mm512_set1_epi8(-128));
  }
  // Four rounds of a perfect shuffle of the rows: each takes row i and row i + 8.
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
    __m512i y[16];
    for (int i = 0; i < 8; ++i) {
      y[2 * i] = _mm512_unpacklo_epi8(x[i], x[i + 8]);
      y[2 * i + 1] = _mm512_unpackhi_epi8(x[i], x[i + 8]);
    }
    for (int i = 0; i < 16; ++i) x[i] = y[i];
  }
  for (int i = 0; i < 16; ++i) {  // lane l of x[i] is column 16 l + i
    __m128i* column = reinterpret_cast<__m128i*>(out + i * width);
    const int64_t lane = width;  // 16 columns, in units of 16 bytes
    _mm_storeu_si128(column, _mm512_castsi512_si128(x[i]));
    _mm_storeu_si128(column + lane, _mm512_extracti32x4_epi32(x[i], 1));
    _mm_storeu_si128(column + 2 * lane, _mm512_extracti32x4_epi32(x[i], 2));
    _mm_storeu_si128(column + 3 * lane, _mm512_extracti32x4_epi32(x[i], 3));
  }
}

// -- multiplying ------------------------------------------------------------------------------------------------------

// The operands of one quad: in each 32-bit lane of x the four inputs of one row.
template <int rows>
struct Operands;

template <>
struct Operands<64> {  // 128-bit lane l of x[v] holds rows 16 l + 4 v ..
  static constexpr int count = 4;
  __m512i x[count];
  Operands(const uint8_t* panel, const uint16_t* k) {
    __m512i a = _mm512_loadu_si512(panel + k[0] * 64), b = _mm512_loadu_si512(panel + k[1] * 64);
    __m512i c = _mm512_loadu_si512(panel + k[2] * 64), d = _mm512_loadu_si512(panel + k[3] * 64);
    unpack_bytes(a, b);
    unpack_bytes(c, d);
    x[0] = _mm512_unpacklo_epi16(a, c), x[1] = _mm512_unpackhi_epi16(a, c);
    x[2] = _mm512_unpacklo_epi16(b, d), x[3] = _mm512_unpackhi_epi16(b, d);
  }
  static constexpr int64_t row(int v, int64_t lane) { return 16 * lane + 4 * v; }
};

template <>
struct Operands<32> {  // 128-bit lane l of x[v] holds rows 8 l' + ..., see row()
  static constexpr int count = 2;
  __m512i x[count];
  Operands(const uint8_t* panel, const uint16_t* k) {
    const __m512i ac = pair(panel + k[0] * 32, panel + k[2] * 32), bd = pair(panel + k[1] * 32, panel + k[3] * 32);
    // Pairs of the first two inputs lie in the lower half, those of the other two in the upper half.
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    x[0] = _mm512_permutexvar_epi16(order, _mm512_unpacklo_epi8(ac, bd));
    x[1] = _mm512_permutexvar_epi16(order, _mm512_unpackhi_epi8(ac, bd));
  }
  static __m512i pair(const uint8_t* low, const uint8_t* high) {
    const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low)));
    return _mm512_mask_broadcast_i64x4(first, 0xf0, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high)));
  }
  static constexpr int64_t row(int v, int64_t lane) { return 16 * (lane / 2) + 8 * v + 4 * (lane % 2); }
};

template <>
struct Operands<16> {  // 128-bit lane l of x[0] holds rows 4 l ..
  static constexpr int count = 1;
  __m512i x[count];
  Operands(const uint8_t* panel, const uint16_t* k) {
    const auto load = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(panel + k[i] * 16)); };
    __m512i all = _mm512_castsi128_si512(load(0));
    all = _mm512_mask_broadcast_i32x4(all, 0x00f0, load(1));
    all = _mm512_mask_broadcast_i32x4(all, 0x0f00, load(2));
    all = _mm512_mask_broadcast_i32x4(all, 0xf000, load(3));
    // Four rows of each input to one 128-bit lane, and there one row's four inputs to 32 bits.
    const __m512i words = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    const __m512i bytes = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    x[0] = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(words, all), bytes);
  }
  static constexpr int64_t row(int, int64_t lane) { return 4 * lane; }
};

// Four outputs x 16 rows from one vector an output to dot[row][kTileN], in 128-bit pieces.
inline void store_outputs(const __m512i (&sum)[kOutputs], int32_t* const (&to)[4]) {
  const __m512i a = _mm512_unpacklo_epi32(sum[0], sum[1]), b = _mm512_unpackhi_epi32(sum[0], sum[1]);
  const __m512i c = _mm512_unpacklo_epi32(sum[2], sum[3]), d = _mm512_unpackhi_epi32(sum[2], sum[3]);
  const __m512i rows[4] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d),
                           _mm512_unpackhi_epi64(b, d)};
  for (int i = 0; i < 4; ++i) {
    const auto at = [&](int lane) { return reinterpret_cast<__m128i*>(to[lane] + i * kTileN); };
    _mm_store_si128(at(0), _mm512_castsi512_si128(rows[i]));
    _mm_store_si128(at(1), _mm512_extracti32x4_epi32(rows[i], 1));
    _mm_store_si128(at(2), _mm512_extracti32x4_epi32(rows[i], 2));
    _mm_store_si128(at(3), _mm512_extracti32x4_epi32(rows[i], 3));
  }
}

// Four outputs of `rows` rows, to dot[row][kTileN].
template <int rows>
void block_row(const uint8_t* panel, const int8_t* values, const uint16_t* index, int64_t quads,
               const int32_t* column_sum, int32_t* dot) {
  using X = Operands<rows>;
  constexpr int kChains = rows == 16 ? 2 : 1;  // short blocks would wait for the latency of vpdpbusd
  __m512i sum[kChains][X::count][kOutputs];
  for (int v = 0; v < X::count; ++v) {
    for (int o = 0; o < kOutputs; ++o) {
      // Vector arithmetic wraps: a damaged buffer may hold any sum.
      sum[0][v][o] = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), _mm512_set1_epi32(column_sum[o])), 7);
      for (int s = 1; s < kChains; ++s) sum[s][v][o] = _mm512_setzero_si512();
    }
  }
  const auto step = [&](int64_t q, int s) {
    const X operands(panel, index + 4 * q);
    for (int o = 0; o < kOutputs; ++o) {
      const __m512i w = _mm512_set1_epi32(load_quad(values + 16 * q + 4 * o));
      for (int v = 0; v < X::count; ++v) sum[s][v][o] = add_products(sum[s][v][o], operands.x[v], w);
    }
  };
  int64_t q = 0;
  for (; q + kChains <= quads; q += kChains) {
    for (int s = 0; s < kChains; ++s) step(q + s, s);
  }
  for (; q < quads; ++q) step(q, 0);
  for (int v = 0; v < X::count; ++v) {
    __m512i total[kOutputs];
    int32_t* to[4];
    for (int o = 0; o < kOutputs; ++o) {
      total[o] = sum[0][v][o];
      for (int s = 1; s < kChains; ++s) total[o] = _mm512_add_epi32(total[o], sum[s][v][o]);
    }
    for (int lane = 0; lane < 4; ++lane) to[lane] = dot + X::row(v, lane) * kTileN;
    store_outputs(total, to);
  }
}

// Whether all indices are below `limit`.
bool in_range(const uint16_t* index, int64_t count, int64_t limit) {
  __m512i largest = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) largest = _mm512_max_epu16(largest, _mm512_loadu_si512(index + i));
  const __mmask32 rest = (uint64_t{1} << (count - i)) - 1;
  largest = _mm512_max_epu16(largest, _mm512_maskz_loadu_epi16(rest, index + i));
  const __m512i last = _mm512_set1_epi16(static_cast<int16_t>(limit < 65536 ? limit - 1 : 65535));
  return _mm512_cmpgt_epu16_mask(largest, last) == 0;
}

template <int rows>
bool column_tile(const SparseLinear& w, const uint8_t* panel, int64_t tile, int32_t* dot) {
  for (int64_t b = 0; b < kTileN / kOutputs; ++b) {
    const int64_t at = tile * (kTileN / kOutputs) + b, first = w.start[at], quads = w.start[at + 1] - first;
    const uint16_t* index = w.index + 4 * first;
    if (!in_range(index, 4 * quads, w.layer.k_pad)) return false;
    block_row<rows>(panel, reinterpret_cast<const int8_t*>(w.values) + 16 * first, index, quads,
                    w.layer.column_sum + at * kOutputs, dot + b * kOutputs);
  }
  return true;
}

}  // namespace

void arrange_rows(const QuantizedRows& a, int64_t m_begin, int64_t m_end, uint8_t* panels) {
  for (int64_t m = m_begin; m < m_end; m += kPanelRows) {
    uint8_t* panel = panels + m / kPanelRows * panel_bytes(a.k_pad);
    const int64_t rows = m_end - m < kPanelRows ? m_end - m : kPanelRows, width = panel_rows(rows);
    for (int64_t k = 0; k < a.k_pad; k += 64) {
      for (int64_t r = 0; r < width; r += 16) {
        transpose(a.q + (m + r) * a.ld + k, a.ld, rows - r, panel + k * width + r, width);
      }
    }
  }
}

bool gemm_blocks(const SparseLinear& w, const QuantizedRows& a, const uint8_t* panels, const Epilogue& e,
                 const GemmRange& range) {
  alignas(64) int32_t dot[kPanelRows * kTileN];
  for (int64_t m = range.m_begin; m < range.m_end; m += kPanelRows) {
    const uint8_t* panel = panels + m / kPanelRows * panel_bytes(a.k_pad);
    const int64_t rows = range.m_end - m < kPanelRows ? range.m_end - m : kPanelRows, width = panel_rows(rows);
    const auto multiply = width == 64 ? column_tile<64> : width == 32 ? column_tile<32> : column_tile<16>;
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      fetch_output(e, m, rows, tile * kTileN, kTileN);
      if (!multiply(w, panel, tile, dot)) return false;
      write_sums(w.layer, a, e, m, rows, tile * kTileN, kTileN, dot, kTileN);
    }
  }
  return true;
}

}  // namespace kdnative::cpu::avx512vnni
