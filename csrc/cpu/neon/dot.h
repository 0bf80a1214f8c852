// One step of the dot-product kernels.
#pragma once

#include <arm_neon.h>

namespace kdnative::cpu::neon {
namespace {

template <int at>
struct Lane {
  static constexpr int index = at;
};

// f(Lane<0>) .. f(Lane<3>): the lanes of an instruction operand are constants of the program.
template <typename F>
inline void for_lanes(const F& f) {
  f(Lane<0>{});
  f(Lane<1>{});
  f(Lane<2>{});
  f(Lane<3>{});
}

// sum + the products of four k of four columns of weights and the four activations in a lane of x.
template <int lane>
inline int32x4_t add_products(int32x4_t sum, int8x16_t weights, int8x16_t x) {
  return vdotq_laneq_s32(sum, weights, x, lane);
}

}  // namespace
}  // namespace kdnative::cpu::neon
