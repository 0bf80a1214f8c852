// Convolutions with sudot: signed weights and unsigned activations, as they are.
#include "../simd/vec_neon.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "../simd/conv_neon.h"

namespace kdnative::cpu::i8mm {
namespace {

struct Product {
  static constexpr bool kSigned = false;
  using Operand = uint8x16_t;
  static Operand operand(uint8x16_t codes) { return codes; }

  template <int quad>
  static int32x4_t add(int32x4_t sum, int8x16_t weights, Operand x) {
    return vsudotq_laneq_s32(sum, weights, x, quad);
  }
};

}  // namespace

void conv(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out, float* real,
          int64_t ld_real, const ConvRange& r) {
  convolve<ConvKernel<Product>>(w, e, in, zeros, out, real, ld_real, r);
}

}  // namespace kdnative::cpu::i8mm
