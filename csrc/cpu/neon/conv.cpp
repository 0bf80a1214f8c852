// Convolutions with sdot, which wants both sides signed: it multiplies q - 128.
#include "../simd/vec_neon.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "../simd/conv_neon.h"

namespace kdnative::cpu::neon {
namespace {

struct Product {
  static constexpr bool kSigned = true;
  using Operand = int8x16_t;
  static Operand operand(uint8x16_t codes) { return vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128))); }

  template <int quad>
  static int32x4_t add(int32x4_t sum, int8x16_t weights, Operand x) {
    return add_products<quad>(sum, weights, x);
  }
};

}  // namespace

void conv(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out, float* real,
          int64_t ld_real, const ConvRange& r) {
  convolve<ConvKernel<Product>>(w, e, in, zeros, out, real, ld_real, r);
}

}  // namespace kdnative::cpu::neon
