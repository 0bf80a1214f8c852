// int8 x int8 on AVX2: blocks of up to 4 rows x 16 columns.
//
// vpmaddubsw multiplies unsigned by signed bytes and saturates pairs at 16 bits. With |w| as the unsigned operand and
// the sign of w moved to the activation a pair is at most 2 * 128 * 127 = 32512, so it never saturates; the weight -128
// is right too, because its magnitude 128 fits an unsigned byte.
#include "../simd/vec_avx2.h"
//
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "avx2.h"

namespace kdnative::cpu::avx2 {
namespace {

constexpr int kMaxRows = 4;

inline __m256i load(const int8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

template <int rows>
void block(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t c) {
  const int8_t* b = reinterpret_cast<const int8_t*>(w.data) + c * w.k_pad;
  const int8_t* q = a.q + r * a.k_pad;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sum[rows][2];
  for (int i = 0; i < rows; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < w.k_pad; k += 4) {
    const __m256i w0 = load(b + k * 16), w1 = load(b + k * 16 + 32);
    const __m256i u0 = _mm256_abs_epi8(w0), u1 = _mm256_abs_epi8(w1);
    for (int i = 0; i < rows; ++i) {
      const __m256i x = _mm256_set1_epi32(load_quad(q + i * a.k_pad + k));
      const __m256i p0 = _mm256_maddubs_epi16(u0, _mm256_sign_epi8(x, w0));
      const __m256i p1 = _mm256_maddubs_epi16(u1, _mm256_sign_epi8(x, w1));
      sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(p0, ones));
      sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(p1, ones));
    }
  }
  alignas(32) int32_t dot[rows][16];
  for (int i = 0; i < rows; ++i) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(dot[i]), sum[i][0]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(dot[i] + 8), sum[i][1]);
  }
  write_sums(w, a, e, r, rows, c, 16, dot[0], 16);
}

}  // namespace

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk) {
    const int64_t end = m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end;
    for (int64_t c = range.tile_begin * kTileN; c < range.tile_end * kTileN && c < w.n; c += 16) {
      for_row_blocks<kMaxRows>(m, end, [&](int64_t r, auto rows) { block<rows.count>(w, a, e, r, c); });
    }
  }
}

}  // namespace kdnative::cpu::avx2
