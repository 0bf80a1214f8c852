// int8 x int8 on AVX-512 VNNI: the register block of block_w8a8.h over all rows and columns.
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "avx512vnni.h"
#include "block_w8a8.h"

namespace kdnative::cpu::avx512vnni {
namespace {

constexpr int64_t kPrefetch = 2048;  // bytes ahead in each of the two streams of weights

template <int rows>
void block(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t tile,
           const int32_t* sums) {
  const auto* b0 = reinterpret_cast<const int8_t*>(w.data) + tile * kTileN * w.k_pad;
  const auto* b1 = b0 + 16 * w.k_pad;
  fetch_output(e, r, rows, tile * kTileN, kTileN);
  __m512i total[rows][2];
  for (int i = 0; i < rows; ++i) total[i][0] = total[i][1] = _mm512_set1_epi32(-128 * sums[i]);
  add_block<rows>(b0, b1, a.q + r * a.k_pad, a.k_pad, w.k_pad, {{b0 + kPrefetch, b1 + kPrefetch}, 64}, total);
  alignas(64) int32_t dot[rows][32];
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < 2; ++j) _mm512_store_si512(dot[i] + 16 * j, total[i][j]);
  }
  write_sums(w, a, e, r, rows, tile * kTileN, kTileN, dot[0], 32);
}

}  // namespace

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  int32_t sums[kRowChunk];
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk) {
    const int64_t end = m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end;
    for (int64_t r = m; r < end; ++r) sums[r - m] = row_sum(a.q + r * a.k_pad, a.k_pad);
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      for_row_blocks<kMaxRows>(m, end,
                               [&](int64_t r, auto rows) { block<rows.count>(w, a, e, r, tile, sums + (r - m)); });
    }
  }
}

}  // namespace kdnative::cpu::avx512vnni
