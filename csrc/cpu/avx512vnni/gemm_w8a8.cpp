// int8 x int8 on AVX-512 VNNI: blocks of up to 8 rows x 32 columns, weights streamed once a block.
//
// vpdpbusd multiplies unsigned by signed bytes. The weights become unsigned by flipping the top bit (w + 128, one
// instruction shared by all rows), the activations are broadcast as they are, and 128 * (sum of the row) is taken out.
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "avx512vnni.h"
#include "dot.h"

namespace kdnative::cpu::avx512vnni {
namespace {

constexpr int kMaxRows = 8;
constexpr int64_t kPrefetch = 2048;  // bytes ahead in each of the two streams of weights

int32_t row_sum(const int8_t* q, int64_t k_pad) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t k = 0; k < k_pad; k += 64) {
    sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_loadu_si512(q + k));
  }
  return _mm512_reduce_add_epi32(sum);
}

template <int rows>
void block(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t tile,
           const int32_t* sums) {
  constexpr int kChains = rows == 1 ? 4 : rows == 2 ? 2 : 1;  // short blocks would wait for the latency of vpdpbusd
  const int8_t* b0 = reinterpret_cast<const int8_t*>(w.data) + tile * kTileN * w.k_pad;
  const int8_t* b1 = b0 + 16 * w.k_pad;
  const int8_t* q = a.q + r * a.k_pad;
  const __m512i top = _mm512_set1_epi8(-128);
  fetch_output(e, r, rows, tile * kTileN, kTileN);
  __m512i sum[kChains][rows][2];
  for (int s = 0; s < kChains; ++s) {
    for (int i = 0; i < rows; ++i) sum[s][i][0] = sum[s][i][1] = _mm512_setzero_si512();
  }
  for (int64_t k = 0; k < w.k_pad; k += 4 * kChains) {
    for (int s = 0; s < kChains; ++s) {
      const int64_t at = (k + 4 * s) * 16;
      _mm_prefetch(reinterpret_cast<const char*>(b0 + at + kPrefetch), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(b1 + at + kPrefetch), _MM_HINT_T0);
      const __m512i u0 = _mm512_xor_si512(_mm512_loadu_si512(b0 + at), top);
      const __m512i u1 = _mm512_xor_si512(_mm512_loadu_si512(b1 + at), top);
      for (int i = 0; i < rows; ++i) {
        const __m512i x = _mm512_set1_epi32(load_quad(q + i * a.k_pad + k + 4 * s));
        sum[s][i][0] = add_products(sum[s][i][0], u0, x);
        sum[s][i][1] = add_products(sum[s][i][1], u1, x);
      }
    }
  }
  alignas(64) int32_t dot[rows][32];
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < 2; ++j) {
      __m512i total = _mm512_set1_epi32(-128 * sums[i]);
      for (int s = 0; s < kChains; ++s) total = _mm512_add_epi32(total, sum[s][i][j]);
      _mm512_store_si512(dot[i] + 16 * j, total);
    }
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
