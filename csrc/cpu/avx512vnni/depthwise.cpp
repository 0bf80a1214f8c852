#include "../instruction_sets.h"
#include "dot.h"
// These are written against Ints and come after it.
#include "../simd/bytes_avx512.h"
#include "../simd/depthwise.h"

namespace kdnative::cpu::avx512vnni {
namespace {

struct Products {
  static constexpr bool kSigned = false;
  template <int kernel>
  static constexpr int kRows = kernel == 3 ? 4 : 3;

  using Quads = Bytes;
  static Bytes load(const uint8_t* p) { return Bytes::load(p); }
  static Quads quads(Bytes zipped) { return zipped; }
  static Ints add(Ints sum, Quads q, Bytes weights) { return {add_products(sum.v, q.v, weights.v)}; }
};

}  // namespace

void depthwise(const PackedDepthwise& w, const Epilogue8& e, const Map& in, const Map& out, int64_t begin,
               int64_t end) {
  depthwise_of<Products>(w, e, in, out, begin, end, look_up);
}

}  // namespace kdnative::cpu::avx512vnni
