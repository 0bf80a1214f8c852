// exp, tanh, erf and the activations over Vec. Include it after one vec_*.h.
//
// Only operations that IEEE 754 rounds exactly one way are used, in one order, so every instruction set returns the
// same bits. Coefficients are relative minimax fits (iteratively reweighted least squares in double precision).
#pragma once

#include "../kernels.h"

namespace kdnative::cpu {
namespace {

// Horner's rule: c[0] + x * (c[1] + x * (...)).
template <int n>
inline Vec polynomial(const float (&c)[n], Vec x) {
  Vec sum = Vec::set1(c[n - 1]);
  for (int i = n - 2; i >= 0; --i) sum = fma(sum, x, Vec::set1(c[i]));
  return sum;
}

// e^x, relative error below 1e-7. Below -87.33 (results under the smallest normal float) 0, above 88.72 infinity.
inline Vec exp(Vec x) {
  constexpr float kLowest = -87.33f, kHighest = 88.72f;
  constexpr float kSeries[] = {1.0f,           1.0f,           0x1.fffffcp-2f, 0x1.555490p-3f,
                               0x1.5558f4p-5f, 0x1.123a6cp-7f, 0x1.6a2352p-10f};
  // The bounds come first: where x is NaN, min and max return their second operand.
  const Vec clamped = min(Vec::set1(kHighest), max(Vec::set1(kLowest), x));
  const Vec n = round(clamped * Vec::set1(0x1.715476p+0f));  // x / ln 2
  // ln 2 in two parts: n times the first is exact.
  Vec r = fma(n, Vec::set1(-0x1.62e4p-1f), clamped);
  r = fma(n, Vec::set1(-0x1.7f7d1cp-20f), r);
  const Vec y = scale2(polynomial(kSeries, r), n);
  const Vec bounded = select(x < Vec::set1(kLowest), Vec::zero(), y);
  return select(x > Vec::set1(kHighest), Vec::set1(__builtin_inff()), bounded);
}

// tanh x = x P(x^2) / Q(x^2), relative error below 4e-7; +-1 beyond 9.01, where the float result is 1.
inline Vec tanh(Vec x) {
  constexpr float kLimit = 9.01f;
  constexpr float kP[] = {0x1.fffffep-1f,  0x1.0892a6p-3f,   0x1.7ebdaep-9f,
                          0x1.36c160p-17f, -0x1.b67fcap-27f, 0x1.4053f8p-36f};
  constexpr float kQ[] = {1.0f, 0x1.d99e86p-2f, 0x1.854a44p-6f, 0x1.de29f0p-13f};
  const Vec one = Vec::set1(1.0f), t = x * x;
  const Vec y = x * polynomial(kP, t) / polynomial(kQ, t);
  const Vec bounded = max(Vec::set1(-1.0f), min(one, y));
  return select(abs(x) > Vec::set1(kLimit), copy_sign(one, x), bounded);
}

// erf x = x P(x^2) / Q(x^2), relative error below 4e-7; +-1 beyond 3.92, where the float result is 1.
inline Vec erf(Vec x) {
  constexpr float kLimit = 3.92f;
  constexpr float kP[] = {0x1.20dd74p+0f,  0x1.997160p-3f,   0x1.9e4b94p-5f, 0x1.e52b28p-9f,
                          0x1.2979f8p-13f, -0x1.06c5a2p-19f, 0x1.564a48p-26f};
  constexpr float kQ[] = {1.0f, 0x1.056172p-1f, 0x1.d70806p-4f, 0x1.d65262p-7f, 0x1.f53abep-11f};
  const Vec one = Vec::set1(1.0f), t = x * x;
  const Vec y = x * polynomial(kP, t) / polynomial(kQ, t);
  const Vec bounded = max(Vec::set1(-1.0f), min(one, y));
  return select(abs(x) > Vec::set1(kLimit), copy_sign(one, x), bounded);
}

inline Vec activate(Vec x, Activation activation) {
  const Vec one = Vec::set1(1.0f), half = Vec::set1(0.5f);
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::relu:
      return max(Vec::zero(), x);  // x second: NaN stays NaN
    case Activation::gelu_erf:
      return half * x * (one + erf(x * Vec::set1(0x1.6a09e6p-1f)));  // 1 / sqrt 2
    case Activation::gelu_tanh: {
      const Vec cubic = fma(x * x * x, Vec::set1(0.044715f), x);
      return half * x * (one + tanh(cubic * Vec::set1(0x1.988454p-1f)));  // sqrt(2 / pi)
    }
    case Activation::silu:
      return x / (one + exp(Vec::zero() - x));
    case Activation::tanh:
      return tanh(x);
  }
  return x;
}

}  // namespace
}  // namespace kdnative::cpu
