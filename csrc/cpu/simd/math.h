// exp, tanh and the activations over Vec. Include it after one vec_*.h.
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

// Vectors that activations take at a time. Each step is done for all of them before the next one: a polynomial is a
// chain of dependent steps, and the processor does not look far enough ahead to find the next vector's. Registers limit
// them: AVX-512 has twice as many.
constexpr int kAbreast = Vec::width == 16 ? 8 : 4;

// x = x (0.5 + x R(x^2)), where R is a polynomial in u = shrink x^2 - 1, which is -1..1 as x^2 runs from 0 to `limit`;
// beyond, the bracket is 0 or 1. It takes no division, and the variable in the middle of its range keeps the terms from
// cancelling.
template <int n, int terms>
inline void gelu(Vec (&x)[n], const float (&c)[terms], float limit, float shrink) {
  Vec u[n], sum[n];
  for (int j = 0; j < n; ++j) {
    u[j] = fma(min(x[j] * x[j], Vec::set1(limit)), Vec::set1(shrink), Vec::set1(-1.0f));
    sum[j] = Vec::set1(c[terms - 1]);
  }
  for (int i = terms - 2; i >= 0; --i)
    for (int j = 0; j < n; ++j) sum[j] = fma(sum[j], u[j], Vec::set1(c[i]));
  for (int j = 0; j < n; ++j) {
    const Vec bounded = max(Vec::set1(-0.5f), min(Vec::set1(0.5f), x[j] * sum[j]));  // x second: NaN stays NaN
    x[j] = x[j] * (Vec::set1(0.5f) + bounded);
  }
}

// x Phi(x), error of Phi below 2e-7. The fit ends at 5.2, where Phi is 1 - 1e-7.
template <int n>
inline void gelu_erf(Vec (&x)[n]) {
  constexpr float kSeries[] = {0x1.166cf4p-3f,  -0x1.157a62p-4f,  0x1.99cd06p-5f,  -0x1.471ae6p-5f, 0x1.060fcep-5f,
                               -0x1.95126ap-6f, 0x1.262bd6p-6f,   -0x1.99c492p-7f, 0x1.187e38p-7f,  -0x1.39dab6p-8f,
                               0x1.d7e42ep-10f, -0x1.40352ap-10f, 0x1.4c8856p-10f, -0x1.f8a7b2p-12f};
  gelu(x, kSeries, 0x1.b0a3d8p+4f, 0x1.2ef566p-4f);
}

// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), error of the half bracket below 3e-7. The fit ends at 5.
template <int n>
inline void gelu_tanh(Vec (&x)[n]) {
  constexpr float kSeries[] = {0x1.218b0cp-3f,  -0x1.203804p-4f, 0x1.a7313cp-5f,  -0x1.4c1952p-5f, 0x1.009534p-5f,
                               -0x1.79492ep-6f, 0x1.08bdf8p-6f,  -0x1.566dc6p-7f, 0x1.6b4f6p-8f,   -0x1.8e8f2cp-9f,
                               0x1.736952p-9f,  -0x1.0c66d8p-9f, 0x1.2e7122p-11f};
  gelu(x, kSeries, 25.0f, 0x1.47ae14p-4f);
}

template <Activation activation>
struct Activate {
  template <int n>
  static void apply(Vec (&x)[n]) {
    if constexpr (activation == Activation::gelu_erf) return gelu_erf(x);
    if constexpr (activation == Activation::gelu_tanh) return gelu_tanh(x);
    for (Vec& v : x) {
      if constexpr (activation == Activation::relu) v = max(Vec::zero(), v);  // v second: NaN stays NaN
      if constexpr (activation == Activation::silu) v = v / (Vec::set1(1.0f) + exp(Vec::zero() - v));
      if constexpr (activation == Activation::tanh) v = tanh(v);
    }
  }
};

// f(Activate<activation>{}): the choice is made once, outside the loops that apply it.
template <typename F>
inline void with_activation(Activation activation, const F& f) {
  switch (activation) {
    case Activation::none:
      return f(Activate<Activation::none>{});
    case Activation::relu:
      return f(Activate<Activation::relu>{});
    case Activation::gelu_erf:
      return f(Activate<Activation::gelu_erf>{});
    case Activation::gelu_tanh:
      return f(Activate<Activation::gelu_tanh>{});
    case Activation::silu:
      return f(Activate<Activation::silu>{});
    case Activation::tanh:
      return f(Activate<Activation::tanh>{});
  }
}

inline Vec activate(Vec x, Activation activation) {
  Vec one[] = {x};
  with_activation(activation, [&](auto chosen) { chosen.apply(one); });
  return one[0];
}

}  // namespace
}  // namespace kdnative::cpu
