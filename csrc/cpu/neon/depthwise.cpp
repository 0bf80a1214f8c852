#include "../instruction_sets.h"
#include "../simd/vec_neon.h"
// These are written against Vec and come after it.
#include "../simd/codes_neon.h"
// These are written against Codes and come after it.
#include "../simd/zips_neon.h"
// This is written against these.
#include "../simd/depthwise.h"

namespace kdnative::cpu::neon {
namespace {

struct Products {
  static constexpr bool kSigned = true;
  template <int kernel>
  static constexpr int kRows = kernel == 3 ? 4 : 3;

  using Quads = Codes;
  static Codes load(const uint8_t* p) { return Codes::load(p) ^ Codes::set1(128); }
  static Quads quads(Codes zipped) { return zipped; }
  static Ints add(Ints sum, Quads q, Codes weights) {
    return {vdotq_s32(sum.v, vreinterpretq_s8_u8(q.v), vreinterpretq_s8_u8(weights.v))};
  }
};

}  // namespace

void depthwise(const PackedDepthwise& w, const Epilogue8& e, const Map& in, const Map& out, int64_t begin,
               int64_t end) {
  depthwise_of<Products>(w, e, in, out, begin, end, look_up);
}

}  // namespace kdnative::cpu::neon
