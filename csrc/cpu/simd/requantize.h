// From the sums of a convolution to codes (convolution.h), for any width of vectors. Include it after a vec_*.h and the
// codes_*.h of the same width, which have
//
//   Codes                    4 * Vec::width bytes
//   pack(Vec[4])             the nearest integers, half to even, within [0, 255]. In the order of byte unpacks: of
//   every
//                            16 bytes, vector v has bytes 4 * v to 4 * v + 3
//   unpack(Codes, Vec[4])    the other way round
//   in_order(Codes)          of what pack() made of vectors that follow one another: their order
//   out_of_order(Codes)      the other way round
#pragma once

#include <cstdint>

#include "../convolution.h"

namespace kdnative::cpu {
namespace {

// What Finish asks for before a result is rounded, and the limits after that. A table is looked up in what was stored.
struct Requantizer {
  Codes low, high;
  Vec out_scale, out_zero;

  explicit Requantizer(const Epilogue8& e)
      : low(Codes::set1(e.low)),
        high(Codes::set1(e.high)),
        out_scale(Vec::set1(e.out_scale)),
        out_zero(Vec::set1(e.out_zero)) {}

  Vec hard_swish(Vec v) const {
    const Vec t = min(max(v * Vec::set1(1.0f / 6) + Vec::set1(0.5f), Vec::zero()), Vec::set1(1.0f));
    return (v * t) * out_scale + out_zero;
  }

  template <bool swish>
  Codes finish(Vec (&v)[4]) const {
    if constexpr (swish) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) v[i] = hard_swish(v[i]);
    }
    return min(max(pack(v), low), high);
  }
};

}  // namespace
}  // namespace kdnative::cpu
