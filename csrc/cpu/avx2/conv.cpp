// Convolutions without dot products of bytes. vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits,
// where 255 * 127 twice would saturate. q - 128 has magnitudes of up to 128, and twice 128 * 127 fits: the magnitudes
// are multiplied, and the weights take over the signs.
#include "../simd/vec_avx2.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "../simd/conv_avx2.h"

namespace kdnative::cpu::avx2 {
namespace {

struct Product {
  static constexpr bool kSigned = true;

  struct Operand {
    __m256i shifted, magnitude;
  };
  static Operand operand(__m256i quad) {
    const __m256i shifted = _mm256_xor_si256(quad, _mm256_set1_epi8(-128));
    return {shifted, _mm256_abs_epi8(shifted)};
  }
  // The empty statement keeps the sum in its register: left alone, GCC computes the products of all rows first.
  static __m256i add(__m256i sum, const Operand& x, __m256i weights) {
    const __m256i pairs = _mm256_maddubs_epi16(x.magnitude, _mm256_sign_epi8(weights, x.shifted));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    __asm__ volatile("" : "+x"(sum));
    return sum;
  }
};

}  // namespace

void conv(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out, float* real,
          int64_t ld_real, const ConvRange& r) {
  convolve<ConvKernel<Product>>(w, e, in, zeros, out, real, ld_real, r);
}

}  // namespace kdnative::cpu::avx2
