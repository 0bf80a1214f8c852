#include "../instruction_sets.h"
#include "dot.h"
// This is written against Vec and comes after it.
#include "../simd/codes_avx2.h"
// This is written against both and comes after them.
#include "../simd/zips_avx2.h"
// This is written against these.
#include "../simd/depthwise.h"

namespace kdnative::cpu::avxvnni {
namespace {

struct Products {
  static constexpr bool kSigned = false;
  template <int kernel>
  static constexpr int kRows = 2;

  using Quads = Codes;
  static Codes load(const uint8_t* p) { return Codes::load(p); }
  static Quads quads(Codes zipped) { return zipped; }
  static Ints add(Ints sum, Quads q, Codes weights) { return Dot::add_products(sum, Ints{q.v}, Ints{weights.v}); }
};

}  // namespace

void depthwise(const PackedDepthwise& w, const Epilogue8& e, const Map& in, const Map& out, int64_t begin,
               int64_t end) {
  depthwise_of<Products>(w, e, in, out, begin, end, avx2::look_up);
}

}  // namespace kdnative::cpu::avxvnni
