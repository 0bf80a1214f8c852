// Convolutions with vpdpbusd of AVX-VNNI: 256 bits, no AVX-512.
#include "dot.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "../simd/conv_avx2.h"

namespace kdnative::cpu::avxvnni {
namespace {

struct Product {
  static constexpr int kSums = 12;
  static constexpr int64_t kMostQuads = 0;

  static void sort(const int8_t*, int64_t, int64_t, uint8_t*) {}
  [[gnu::always_inline]] static __m256i add(__m256i sum, __m256i quad, __m256i weights) {
    return Dot::add_products({sum}, {quad}, {weights}).v;
  }
};

}  // namespace

void conv(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out, float* real,
          int64_t ld_real, const ConvRange& r) {
  convolve<ConvKernel<Product>>(w, e, in, zeros, out, real, ld_real, r);
}

}  // namespace kdnative::cpu::avxvnni
