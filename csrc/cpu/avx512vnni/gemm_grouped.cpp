// 4-bit and 2-bit weights x int8 on AVX-512 VNNI: blocks of up to 6 rows x 32 columns.
//
// The codes u in [0, 2^bits) are the unsigned operand of vpdpbusd as they are; the zero points come out with the sums
// of the activations, which the quantizer left behind.
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "avx512vnni.h"
#include "dot.h"

namespace kdnative::cpu::avx512vnni {
namespace {

constexpr int kMaxRows = 6;          // 12 integer and 12 float accumulators
constexpr int64_t kPrefetch = 2048;  // bytes ahead in the stream of weights

// Quads of k (four columns) in 64 bytes of codes.
template <int bits>
constexpr int kQuads = 4 / bits;

// u[t][j]: quad t, 16 columns from 16 j on.
template <int bits>
inline void decode(__m512i packed, __m512i (&u)[kQuads<bits>][2]) {
  const __m512i mask = _mm512_set1_epi8((1 << bits) - 1);
  u[0][0] = _mm512_and_si512(packed, mask);
  u[0][1] = _mm512_and_si512(_mm512_srli_epi16(packed, bits), mask);
  if constexpr (bits == 2) {
    u[1][0] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask);
    u[1][1] = _mm512_and_si512(_mm512_srli_epi16(packed, 6), mask);
  }
}

// sum of -zero * (activations of the group): what the sums of a * u start from.
template <int bits>
inline __m512i initial_sum(const PackedLinear& w, int64_t g, int64_t c, int32_t total) {
  if (w.symmetric) return _mm512_set1_epi32(-(1 << (bits - 1)) * total);
  const __m128i zero = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zero + g * w.n_pad + c));
  return _mm512_mullo_epi32(_mm512_cvtepu8_epi32(zero), _mm512_set1_epi32(-total));
}

template <int bits, int rows>
void block(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t tile) {
  constexpr int kChains = rows == 1 ? 4 : rows == 2 ? 2 : 1;  // short blocks would wait for the latency of vpdpbusd
  const int64_t columns = w.group, c = tile * kTileN;
  const uint8_t* b = w.data + tile * w.k_pad * 4 * bits;
  const int8_t* q = a.q + r * a.k_pad;
  fetch_output(e, r, rows, c, kTileN);
  __m512 sum[rows][2];
  for (int i = 0; i < rows; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (int64_t g = 0; g * columns < w.k; ++g) {
    __m512i dot[kChains][rows][2];
    for (int i = 0; i < rows; ++i) {
      const int32_t total = group_total(a, r + i, g * columns, columns);
      for (int j = 0; j < 2; ++j) {
        dot[0][i][j] = initial_sum<bits>(w, g, c + 16 * j, total);
        for (int s = 1; s < kChains; ++s) dot[s][i][j] = _mm512_setzero_si512();
      }
    }
    for (int64_t k = g * columns; k < (g + 1) * columns; k += 4 * kQuads<bits> * kChains) {
      for (int s = 0; s < kChains; ++s) {
        const int64_t first = k + 4 * kQuads<bits> * s;
        const uint8_t* codes = b + first * 4 * bits;
        _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetch), _MM_HINT_T0);
        __m512i u[kQuads<bits>][2];
        decode<bits>(_mm512_loadu_si512(codes), u);
        for (int t = 0; t < kQuads<bits>; ++t) {
          for (int i = 0; i < rows; ++i) {
            const __m512i x = _mm512_set1_epi32(load_quad(q + i * a.k_pad + first + 4 * t));
            dot[s][i][0] = add_products(dot[s][i][0], u[t][0], x);
            dot[s][i][1] = add_products(dot[s][i][1], u[t][1], x);
          }
        }
      }
    }
    for (int j = 0; j < 2; ++j) {
      const __m512 scale = _mm512_loadu_ps(w.scale + g * w.n_pad + c + 16 * j);
      for (int i = 0; i < rows; ++i) {
        __m512i total = dot[0][i][j];
        for (int s = 1; s < kChains; ++s) total = _mm512_add_epi32(total, dot[s][i][j]);
        sum[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), scale, sum[i][j]);
      }
    }
  }
  alignas(64) float out[rows][32];
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < 2; ++j) _mm512_store_ps(out[i] + 16 * j, sum[i][j]);
  }
  write_scaled(w, a, e, r, rows, c, kTileN, out[0], 32);
}

template <int bits>
void gemm(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk) {
    const int64_t end = m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end;
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      for_row_blocks<kMaxRows>(m, end, [&](int64_t r, auto rows) { block<bits, rows.count>(w, a, e, r, tile); });
    }
  }
}

}  // namespace

void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm<4>(w, a, e, range);
}

void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm<2>(w, a, e, range);
}

}  // namespace kdnative::cpu::avx512vnni
