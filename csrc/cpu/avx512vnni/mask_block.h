// The product with a mask for few rows: blocks of up to 8 rows x 32 columns, whose operands are put together in
// registers by Expand::load(bytes, mask, number of bytes). Include it after vec_avx512.h.
//
// As in gemm_w8a8.cpp the weights are unsigned, here from the start, and 128 * (sum of the row) is taken out.
#pragma once

#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "../simd/mask_stream.h"
#include "dot.h"

namespace kdnative::cpu::avx512vnni {
namespace {

constexpr int64_t kMaskPrefetch = 2048;  // bytes ahead

inline int32_t sum_of_row(const int8_t* q, int64_t k_pad) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t k = 0; k < k_pad; k += 64) {
    sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_loadu_si512(q + k));
  }
  return _mm512_reduce_add_epi32(sum);
}

template <int rows, typename Expand>
bool mask_block(const SparseLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t tile,
                const int32_t* sums) {
  constexpr int kChains = rows <= 4 ? 2 : 1;  // short blocks would wait for the latency of vpdpbusd
  const int8_t* q = a.q + r * a.ld;
  MaskStream stream[2] = {{w, 2 * tile}, {w, 2 * tile + 1}};
  __m512i sum[kChains][rows][2];
  for (int s = 0; s < kChains; ++s) {
    for (int i = 0; i < rows; ++i) sum[s][i][0] = sum[s][i][1] = _mm512_setzero_si512();
  }
  for (int64_t k = 0; k < w.layer.k_pad; k += 4 * kCheckEvery) {
    if (!stream[0].sound() || !stream[1].sound()) return false;
    for (int j = 0; j < 2; ++j) {  // two lines of masks a step
      _mm_prefetch(reinterpret_cast<const char*>(stream[j].mask + kMaskPrefetch / 16), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(stream[j].mask + kMaskPrefetch / 16 + 8), _MM_HINT_T0);
    }
    for (int64_t i = 0; i < kCheckEvery; i += 2) {
      _mm_prefetch(reinterpret_cast<const char*>(stream[0].at + kMaskPrefetch), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(stream[1].at + kMaskPrefetch), _MM_HINT_T0);
#pragma GCC unroll 2
      for (int t = 0; t < 2; ++t) {
        __m512i u[2];
        for (int j = 0; j < 2; ++j) {
          const uint64_t mask = *stream[j].mask;
          const int64_t count = __builtin_popcountll(mask);
          u[j] = Expand::load(stream[j].at, mask, count);
          stream[j].next(count);
        }
        for (int row = 0; row < rows; ++row) {
          const __m512i x = _mm512_set1_epi32(load_quad(q + row * a.ld + k + 4 * (i + t)));
          __m512i(&to)[2] = sum[t % kChains][row];
          to[0] = add_products(to[0], u[0], x);
          to[1] = add_products(to[1], u[1], x);
        }
      }
    }
  }
  if (!stream[0].finished() || !stream[1].finished()) return false;
  alignas(64) int32_t dot[rows][32];
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < 2; ++j) {
      __m512i total = _mm512_set1_epi32(of_shift(sums[i]));
      for (int s = 0; s < kChains; ++s) total = _mm512_add_epi32(total, sum[s][i][j]);
      _mm512_store_si512(dot[i] + 16 * j, total);
    }
  }
  write_sums(w.layer, a, e, r, rows, tile * kTileN, kTileN, dot[0], 32);
  return true;
}

template <typename Expand>
bool mask_gemm(const SparseLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  constexpr int kMaxRows = 8;
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk) {
    const int64_t end = m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end;
    int32_t sums[kRowChunk];
    for (int64_t r = m; r < end; ++r) sums[r - m] = sum_of_row(a.q + r * a.ld, a.k_pad);
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      bool sound = true;
      for_row_blocks<kMaxRows>(m, end, [&](int64_t r, auto rows) {
        sound = sound && mask_block<rows.count, Expand>(w, a, e, r, tile, sums + (r - m));
      });
      if (!sound) return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace kdnative::cpu::avx512vnni
