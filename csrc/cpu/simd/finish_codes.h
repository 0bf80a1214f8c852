// From sums to codes over Bytes: the numerics of convolution.h. Include it after one bytes_*.h.
#pragma once

#include "../convolution.h"

namespace kdnative::cpu {
namespace {

// The four vectors of a register: each byte in a lane of its own.
inline void widen(Bytes x, Ints (&q)[4]) {
  const Bytes zero = Bytes::zero(), low = zip_low(x, zero), high = zip_high(x, zero);
  q[0] = bits(zip_pairs_low(low, zero));
  q[1] = bits(zip_pairs_high(low, zero));
  q[2] = bits(zip_pairs_low(high, zero));
  q[3] = bits(zip_pairs_high(high, zero));
}

// rint, half to even, within [0, 255].
inline Bytes saturate(const Vec (&v)[4]) {
  const Ints q[4] = {nearest(v[0]), nearest(v[1]), nearest(v[2]), nearest(v[3])};
  return narrow(q);
}

// What ends a kernel, but for a table: Finish::table looks the code up afterwards.
struct Limits {
  explicit Limits(const Epilogue8& e)
      : low(Bytes::set1(e.low)),
        high(Bytes::set1(e.high)),
        hard_swish(e.finish == Finish::hard_swish),
        out_scale(e.out_scale),
        out_zero(e.out_zero) {}

  Bytes codes(Vec (&v)[4]) const {
    if (hard_swish) {
      for (Vec& x : v) {
        const Vec sixth = x * Vec::set1(1.0f / 6.0f) + Vec::set1(0.5f);
        const Vec t = min(max(sixth, Vec::zero()), Vec::set1(1.0f));
        x = (x * t) * Vec::set1(out_scale) + Vec::set1(out_zero);
      }
    }
    return min(max(saturate(v), low), high);
  }

  Bytes low, high;
  bool hard_swish;
  float out_scale, out_zero;
};

}  // namespace
}  // namespace kdnative::cpu
