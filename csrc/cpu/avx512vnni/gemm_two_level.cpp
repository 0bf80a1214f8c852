// Two-level 4-bit weights x int8 on AVX-512 VNNI. Few rows: the blocks of grouped weights, with integer scales. More
// rows: a piece of a tile is decoded to int8 once, in L1, for a register block of 8-bit weights, while the next piece
// is fetched; int32 sums wait in memory between pieces.
#include "dot.h"
// These are written against Vec and Ints and come after them.
#include "../instruction_sets.h"
#include "../simd/gemm_vnni.h"
#include "../simd/two_level.h"
#include "block_w8a8.h"

namespace kdnative::cpu::avx512vnni {
namespace {

constexpr int kFewRows = 6;        // up to here a panel would cost more than it saves
constexpr int64_t kPieceK = 1024;  // 32 KiB of decoded weights; a multiple of every group

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
    for_row_blocks<Dot::kRows>(m, end, [&](int64_t r, auto count) {
      constexpr int rows = decltype(count)::count;
      __m512i total[rows][2];
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < 2; ++j) {
          total[i][j] = k == 0 ? _mm512_set1_epi32(of_shift(row_sums[r - m + i]))
                               : _mm512_load_si512(work.sums[r - m + i] + 16 * j);
        }
      }
      add_block<rows>(work.weights[0], work.weights[1], a.q + r * a.ld + k, a.ld, depth, ahead, total);
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
    return grouped_gemm<VnniProducts<Dot>, 4, true>(w, a, e, range);
  }
  Workspace work;
  int32_t row_sums[kRowChunk];
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk) {
    const int64_t end = m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end;
    for (int64_t r = m; r < end; ++r) row_sums[r - m] = row_sum<Dot>(a.q + r * a.ld, a.k_pad);
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile)
      many_rows(w, a, e, m, end, tile, row_sums, work);
  }
}

}  // namespace kdnative::cpu::avx512vnni
