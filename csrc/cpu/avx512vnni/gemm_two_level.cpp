// Two-level 4-bit weights x int8 on AVX-512 VNNI. More than a few rows: a piece of a tile is decoded to int8 once, in
// L1, for the register block of the 8-bit GEMM; int32 sums wait in memory between pieces. Few rows: blocks of up to 6
// rows x 32 columns, weights decoded in registers.
//
// In registers, a code times its group scale is below 256 and so the unsigned operand of vpdpbusd; the zero points come
// out with the sums of the activations, which the quantizer left behind.
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "../simd/two_level.h"
#include "avx512vnni.h"
#include "block_w8a8.h"

namespace kdnative::cpu::avx512vnni {
namespace {

constexpr int kFewRows = 6;          // up to here decoding in registers is faster
constexpr int64_t kPieceK = 1024;    // 32 KiB of decoded weights; a multiple of every group
constexpr int64_t kPrefetch = 2048;  // bytes ahead in the stream of weights

template <int rows>
void few_rows(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t tile) {
  constexpr int kChains = rows == 1 ? 4 : rows == 2 ? 2 : 1;  // short blocks would wait for the latency of vpdpbusd
  const int64_t c = tile * kTileN;
  const uint8_t* b = w.data + tile * w.k_pad * 16;
  const int8_t* q = a.q + r * a.k_pad;
  fetch_output(e, r, rows, c, kTileN);
  __m512i sum[kChains][rows][2];
  for (int s = 0; s < kChains; ++s)
    for (int i = 0; i < rows; ++i) sum[s][i][0] = sum[s][i][1] = _mm512_setzero_si512();
  for (int64_t g = 0; g * w.group < w.k; ++g) {
    Word scale[2];
    for (int j = 0; j < 2; ++j) {
      const int64_t at = g * w.n_pad + c + 16 * j;
      scale[j] = Word::repeat(w.group_scale + at);
      const __m512i zero = scale_bytes(Word::repeat(w.zero + at), scale[j]).v;
      for (int i = 0; i < rows; ++i) {
        // Both fit 16 bits, and the upper half of a lane of zero points is 0.
        const __m512i total = _mm512_set1_epi32(-group_total(a, r + i, g * w.group, w.group));
        sum[0][i][j] = _mm512_dpwssd_epi32(sum[0][i][j], _mm512_srli_epi32(zero, 24), total);
      }
    }
    for (int64_t k = g * w.group; k < (g + 1) * w.group; k += 4 * kChains) {
      for (int s = 0; s < kChains; ++s) {
        const int64_t first = k + 4 * s;
        _mm_prefetch(reinterpret_cast<const char*>(b + first * 16 + kPrefetch), _MM_HINT_T0);
        const Word codes = Word::load(b + first * 16);
        const __m512i u0 = scale_bytes(nibbles<0>(codes), scale[0]).v;
        const __m512i u1 = scale_bytes(nibbles<4>(codes), scale[1]).v;
        for (int i = 0; i < rows; ++i) {
          const __m512i x = _mm512_set1_epi32(load_quad(q + i * a.k_pad + first));
          sum[s][i][0] = add_products(sum[s][i][0], u0, x);
          sum[s][i][1] = add_products(sum[s][i][1], u1, x);
        }
      }
    }
  }
  alignas(64) int32_t dot[rows][32];
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < 2; ++j) {
      __m512i total = sum[0][i][j];
      for (int s = 1; s < kChains; ++s) total = _mm512_add_epi32(total, sum[s][i][j]);
      _mm512_store_si512(dot[i] + 16 * j, total);
    }
  }
  write_sums(w, a, e, r, rows, c, kTileN, dot[0], 32);
}

struct Workspace {
  alignas(64) int8_t weights[2][kPieceK * 16];
  alignas(64) int32_t sums[kRowChunk][kTileN];
};

// Rows [m, end) of one tile; sums[r][c] start at what flipping the top bits of the weights adds.
void many_rows(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t m, int64_t end, int64_t tile,
               const int32_t* row_sums, Workspace& work) {
  for (int64_t k = 0; k < w.k_pad; k += kPieceK) {
    const int64_t depth = w.k_pad - k < kPieceK ? w.k_pad - k : kPieceK;
    decode_tile(w, tile, k, depth, work.weights[0], kPieceK * 16);
    const uint8_t* next = w.data + (tile * w.k_pad + k + depth) * 16;  // codes of the next piece, or the next tile
    const Ahead ahead = {{next, next + depth * 8}, 32};
    for_row_blocks<kMaxRows>(m, end, [&](int64_t r, auto count) {
      constexpr int rows = decltype(count)::count;
      __m512i total[rows][2];
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < 2; ++j) {
          total[i][j] =
              k == 0 ? _mm512_set1_epi32(-128 * row_sums[r - m + i]) : _mm512_load_si512(work.sums[r - m + i] + 16 * j);
        }
      }
      add_block<rows>(work.weights[0], work.weights[1], a.q + r * a.k_pad + k, a.k_pad, depth, ahead, total);
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < 2; ++j) _mm512_store_si512(work.sums[r - m + i] + 16 * j, total[i][j]);
      }
    });
  }
  write_sums(w, a, e, m, end - m, tile * kTileN, kTileN, work.sums[0], kTileN);
}

}  // namespace

void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  if (range.m_end - range.m_begin <= kFewRows) {
    for_row_blocks<kFewRows>(range.m_begin, range.m_end, [&](int64_t r, auto rows) {
      for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) few_rows<rows.count>(w, a, e, r, tile);
    });
    return;
  }
  Workspace work;
  int32_t row_sums[kRowChunk];
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk) {
    const int64_t end = m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end;
    for (int64_t r = m; r < end; ++r) row_sums[r - m] = row_sum(a.q + r * a.k_pad, a.k_pad);
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile)
      many_rows(w, a, e, m, end, tile, row_sums, work);
  }
}

}  // namespace kdnative::cpu::avx512vnni
