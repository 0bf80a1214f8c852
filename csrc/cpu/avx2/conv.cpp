// Convolutions without dot products of bytes. vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits,
// which hold 255 * 128: of most pairs of trained weights, the positive ones sum to at most 128, and so do the negative
// ones. Quads of channels that have other pairs are multiplied in two halves, as one product always fits.
#include "../simd/vec_avx2.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "../simd/conv_avx2.h"

namespace kdnative::cpu::avx2 {
namespace {

// The empty statement keeps the sum in its register: left alone, GCC computes the products of all rows first.
[[gnu::always_inline]] inline __m256i add_words(__m256i sum, __m256i words) {
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
  __asm__ volatile("" : "+x"(sum));
  return sum;
}

// Whether no activations saturate a pair of eight lanes of weights.
inline bool fits(const int8_t* w) {
  const __m256i weights = _mm256_loadu_si256(lanes_of(w)), ones = _mm256_set1_epi8(1), zero = _mm256_setzero_si256();
  const __m256i above = _mm256_maddubs_epi16(ones, _mm256_max_epi8(weights, zero));
  const __m256i below = _mm256_maddubs_epi16(ones, _mm256_min_epi8(weights, zero));
  const __m256i beyond = _mm256_or_si256(_mm256_cmpgt_epi16(above, _mm256_set1_epi16(128)),
                                         _mm256_cmpgt_epi16(_mm256_set1_epi16(-128), below));
  return _mm256_testz_si256(beyond, beyond);
}

struct Product {
  static constexpr int kSums = 8;  // the others hold constants and what is multiplied
  static constexpr int64_t kMostQuads = 4096;

  static void sort(const int8_t* weights, int64_t quads, int64_t vectors, uint8_t* kinds) {
    for (int64_t q = 0; q < quads; ++q, weights += 64 * vectors) {
      int kind = 0xff;
      for (int64_t i = 0; i < 2 * vectors; ++i) {
        const int64_t group = vectors == 4 ? i % 2 : vectors == 2 ? 0 : i / 2;
        if (!fits(weights + 32 * i)) kind &= ~(1 << group);
      }
      kinds[q] = static_cast<uint8_t>(kind);
    }
  }

  [[gnu::always_inline]] static __m256i add(__m256i sum, __m256i quad, __m256i weights) {
    return add_words(sum, _mm256_maddubs_epi16(quad, weights));
  }
  [[gnu::always_inline]] static __m256i add_any(__m256i sum, __m256i quad, __m256i weights) {
    const __m256i odd = _mm256_and_si256(weights, _mm256_set1_epi16(-256)), even = _mm256_xor_si256(weights, odd);
    return add_words(add_words(sum, _mm256_maddubs_epi16(quad, even)), _mm256_maddubs_epi16(quad, odd));
  }
};

}  // namespace

void conv(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out, float* real,
          int64_t ld_real, const ConvRange& r) {
  convolve<ConvKernel<Product>>(w, e, in, zeros, out, real, ld_real, r);
}

}  // namespace kdnative::cpu::avx2
