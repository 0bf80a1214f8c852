// int8 x int8 on AVX2: blocks of up to 4 rows x 16 columns.
//
// vpmaddubsw would saturate, so bytes are widened to 16 bits and multiplied by vpmaddwd, which is exact. A quad of k
// stays in one 32-bit lane per column: its bytes 0 and 2 make one pair of words, its bytes 1 and 3 another. Weights are
// split with three shifts a load, shared by the rows; activations are split beforehand, a piece of k at a time.
#include "../simd/vec_avx2.h"
// These are written against Vec and come after it.
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "avx2.h"

namespace kdnative::cpu::avx2 {
namespace {

constexpr int kMaxRows = 4;
constexpr int64_t kPieceK = 512;  // 4 KiB of split activations

inline __m256i load(const int8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m256i even_bytes(__m256i x) { return _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8); }
inline __m256i odd_bytes(__m256i x) { return _mm256_srai_epi16(x, 8); }

struct Split {  // 32 activations as eight pairs of words from the even bytes and eight from the odd ones
  alignas(32) int32_t even[8];
  alignas(32) int32_t odd[8];
};

inline void split(const int8_t* q, int64_t depth, Split* out) {
  for (int64_t k = 0; k < depth; k += 32, ++out) {
    const __m256i x = load(q + k);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out->even), even_bytes(x));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out->odd), odd_bytes(x));
  }
}

// sum[i][j] += the products of row i and columns 8 j .. 8 j + 7 over `depth` columns of k.
template <int rows>
inline void multiply(const int8_t* b, const Split (&a)[rows][kPieceK / 32], int64_t depth, __m256i (&sum)[rows][2]) {
  for (int64_t k = 0; k < depth / 32; ++k) {
#pragma GCC unroll 2
    for (int64_t quad = 0; quad < 8; ++quad, b += 64) {
      const __m256i w0 = load(b), w1 = load(b + 32);
      const __m256i even0 = even_bytes(w0), even1 = even_bytes(w1), odd0 = odd_bytes(w0), odd1 = odd_bytes(w1);
      for (int i = 0; i < rows; ++i) {
        const __m256i even = _mm256_set1_epi32(a[i][k].even[quad]);
        sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(even0, even));
        sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(even1, even));
        const __m256i odd = _mm256_set1_epi32(a[i][k].odd[quad]);
        sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(odd0, odd));
        sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(odd1, odd));
      }
    }
  }
}

template <int rows>
void block(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t c) {
  const int8_t* b = reinterpret_cast<const int8_t*>(w.data) + c * w.k_pad;
  fetch_output(e, r, rows, c, 16);
  Split pieces[rows][kPieceK / 32];
  __m256i sum[rows][2];
  for (int i = 0; i < rows; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < w.k_pad; k += kPieceK) {
    const int64_t depth = w.k_pad - k < kPieceK ? w.k_pad - k : kPieceK;
    for (int i = 0; i < rows; ++i) split(a.q + (r + i) * a.k_pad + k, depth, pieces[i]);
    multiply<rows>(b + k * 16, pieces, depth, sum);
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
  for_row_chunks(range, [&](int64_t m, int64_t end) {
    for (int64_t c = range.tile_begin * kTileN; c < range.tile_end * kTileN && c < w.n; c += 16) {
      for_row_blocks<kMaxRows>(m, end, [&](int64_t r, auto rows) { block<rows.count>(w, a, e, r, c); });
    }
  });
}

}  // namespace kdnative::cpu::avx2
