// int8 x int8 on AVX2: blocks of up to 3 rows x 16 columns, with vpmaddubsw (unsigned x signed bytes, sums of two in 16
// bits).
//
// It would saturate, so the octets of k are sorted first (octets.h). Most multiply weights + 128: two results are added
// before they are widened, 64 products in five instructions. Those whose activations are too large for that widen every
// result, and the largest of all multiply the magnitudes of the weights, whose signs go to the activations (twice 127 *
// 128 fits): 64 products in eight.
#include "../simd/vec_avx2.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "../simd/ints_avx2.h"
#include "octets.h"

namespace kdnative::cpu::avx2 {
namespace {

static_assert(kMostInputs / 8 < 0xffff, "octets are numbered in 16 bits");
constexpr int64_t kBlocks = (kRowChunk + kMostRows - 1) / kMostRows;  // of rows in a chunk

inline __m256i load(const int8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m256i load_unsigned(const int8_t* p) { return _mm256_xor_si256(load(p), _mm256_set1_epi8(-128)); }
inline __m256i broadcast(const int8_t* p) { return _mm256_set1_epi32(load_quad(p)); }

// The empty statement keeps the sum in its register: left alone, GCC computes the products of all rows first.
inline __m256i add_words(__m256i sum, __m256i words) {
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
  __asm__ volatile("" : "+x"(sum));
  return sum;
}

// f(weights of 16 columns, activations, first sum) of each octet of a list. The weights of the next 16 columns are
// `next` bytes further on.
template <int pieces, typename F>
inline void for_octets(const uint16_t* octet, int64_t count, const int8_t* b, int64_t next, const int8_t* q,
                       const F& f) {
  for (const uint16_t* end = octet + count; octet != end; ++octet) {
    const int8_t *w = b + int64_t{*octet} * 128, *ahead = b + int64_t{octet[Octets::kAhead]} * 128;
    for (int p = 0; p < pieces; ++p) {
      __builtin_prefetch(ahead + p * next);
      __builtin_prefetch(ahead + p * next + 64);
      f(w + p * next, q + int64_t{*octet} * 8, 2 * p);
    }
  }
}

// sum[i][j] = the products of row i of q and columns 8 j .. 8 j + 7 of b.
template <int rows, int pieces>
inline void multiply(const int8_t* b, const int8_t* q, int64_t ld, int64_t k_pad, const Octets& octets,
                     __m256i (&sum)[rows][2 * pieces]) {
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < 2 * pieces; ++j) sum[i][j] = _mm256_set1_epi32(of_shift(octets.sum[i]));
  const auto together = [&](const int8_t* w, const int8_t* a, int j) [[gnu::always_inline]] {
    const __m256i w0 = load_unsigned(w), w1 = load_unsigned(w + 32);
    const __m256i v0 = load_unsigned(w + 64), v1 = load_unsigned(w + 96);
#pragma GCC unroll 3
    for (int i = 0; i < rows; ++i) {
      const __m256i x = broadcast(a + i * ld), y = broadcast(a + i * ld + 4);
      sum[i][j] = add_words(sum[i][j], _mm256_add_epi16(_mm256_maddubs_epi16(w0, x), _mm256_maddubs_epi16(v0, y)));
      sum[i][j + 1] =
          add_words(sum[i][j + 1], _mm256_add_epi16(_mm256_maddubs_epi16(w1, x), _mm256_maddubs_epi16(v1, y)));
    }
  };
  const auto apart = [&](const int8_t* w, const int8_t* a, int j) [[gnu::always_inline]] {
#pragma GCC unroll 2
    for (int quad = 0; quad < 2; ++quad, w += 64, a += 4) {
      const __m256i w0 = load_unsigned(w), w1 = load_unsigned(w + 32);
#pragma GCC unroll 3
      for (int i = 0; i < rows; ++i) {
        const __m256i x = broadcast(a + i * ld);
        sum[i][j] = add_words(sum[i][j], _mm256_maddubs_epi16(w0, x));
        sum[i][j + 1] = add_words(sum[i][j + 1], _mm256_maddubs_epi16(w1, x));
      }
    }
  };
  const auto signs = [&](const int8_t* w, const int8_t* a, int j) [[gnu::always_inline]] {
#pragma GCC unroll 2
    for (int quad = 0; quad < 2; ++quad, w += 64, a += 4) {
      const __m256i w0 = load(w), w1 = load(w + 32), size0 = _mm256_abs_epi8(w0), size1 = _mm256_abs_epi8(w1);
#pragma GCC unroll 3
      for (int i = 0; i < rows; ++i) {
        const __m256i x = broadcast(a + i * ld);
        sum[i][j] = add_words(sum[i][j], _mm256_maddubs_epi16(size0, _mm256_sign_epi8(x, w0)));
        sum[i][j + 1] = add_words(sum[i][j + 1], _mm256_maddubs_epi16(size1, _mm256_sign_epi8(x, w1)));
      }
    }
  };
  const auto add = [&](int kind, const auto& products) [[gnu::always_inline]] {
    for_octets<pieces>(octets.of(kind, k_pad), octets.count[kind], b, 16 * k_pad, q, products);
  };
  add(0, together);
  add(1, apart);
  add(2, signs);
}

template <int rows, int pieces>
[[gnu::noinline]] void block(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t c,
                             const Octets& octets) {
  constexpr int64_t kColumns = 16 * pieces;
  fetch_output(e, r, rows, c, kColumns);
  __m256i sum[rows][2 * pieces];
  multiply<rows, pieces>(reinterpret_cast<const int8_t*>(w.data) + c * w.k_pad, a.q + r * a.ld, a.ld, a.k_pad, octets,
                         sum);
  if (is_plain(w, e, c, kColumns)) {  // from registers
    return write_plain(w, e, r, rows, c, kColumns, [&](int64_t i, int64_t j) [[gnu::always_inline]] {
      return Vec{_mm256_cvtepi32_ps(sum[i][j / 8])} * (Vec::set1(a.scale[r + i]) * Vec::load(w.scale + c + j));
    });
  }
  alignas(32) int32_t dot[rows][kColumns];
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < 2 * pieces; ++j) _mm256_store_si256(reinterpret_cast<__m256i*>(dot[i] + 8 * j), sum[i][j]);
  write_sums(w, a, e, r, rows, c, kColumns, dot[0], kColumns);
}

}  // namespace

int64_t w8a8_panel_bytes(int64_t k_pad) { return kBlocks * Octets::bytes(k_pad); }

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  const int64_t last = range.tile_end * kTileN < w.n ? range.tile_end * kTileN : w.n;
  Octets octets[kBlocks];
  for (int64_t i = 0; i < kBlocks; ++i) {
    octets[i].list = reinterpret_cast<uint16_t*>(range.panel + i * Octets::bytes(a.k_pad));
  }
  for_row_chunks(range, [&](int64_t m, int64_t end) {
    Octets* of_rows = octets;
    for_row_blocks<kMostRows>(
        m, end, [&](int64_t r, auto rows) { sort_octets<rows.count>(a.q + r * a.ld, a.ld, a.k_pad, of_rows++); });
    if (end - m == 1) {  // a short block: twice the columns, so that the ends of its loops weigh half as much
      for (int64_t c = range.tile_begin * kTileN; c < last; c += 32) block<1, 2>(w, a, e, m, c, *octets);
      return;
    }
    for (int64_t c = range.tile_begin * kTileN; c < last; c += 16) {
      of_rows = octets;
      for_row_blocks<kMostRows>(m, end, [&](int64_t r, auto rows) { block<rows.count, 1>(w, a, e, r, c, *of_rows++); });
    }
  });
}

}  // namespace kdnative::cpu::avx2
