// AVX2 has no products of unsigned and signed bytes that do not saturate: 255 * 127 * 2 is beyond 16 bits. Those of
// |q - 128| and the weights with the signs of q - 128 are not: 128 * 127 * 2 is within.
#include "../instruction_sets.h"
#include "../simd/vec_avx2.h"
// These are written against Vec and come after it.
#include "../simd/codes_avx2.h"
#include "../simd/ints_avx2.h"
// This is written against both and comes after them.
#include "../simd/zips_avx2.h"
// This is written against these.
#include "../simd/depthwise.h"

namespace kdnative::cpu::avx2 {
namespace {

struct Products {
  static constexpr bool kSigned = true;
  template <int kernel>
  static constexpr int kRows = 2;

  struct Quads {
    __m256i codes, magnitudes;
  };
  static Codes load(const uint8_t* p) { return Codes::load(p) ^ Codes::set1(128); }
  static Quads quads(Codes zipped) { return {zipped.v, _mm256_abs_epi8(zipped.v)}; }
  static Ints add(Ints sum, Quads q, Codes weights) {
    const __m256i pairs = _mm256_maddubs_epi16(q.magnitudes, _mm256_sign_epi8(weights.v, q.codes));
    return sum + Ints{_mm256_madd_epi16(pairs, _mm256_set1_epi16(1))};
  }
};

}  // namespace

void depthwise(const PackedDepthwise& w, const Epilogue8& e, const Map& in, const Map& out, int64_t begin,
               int64_t end) {
  depthwise_of<Products>(w, e, in, out, begin, end, look_up);
}

}  // namespace kdnative::cpu::avx2
