// The activations with the bits of the CPU's kernels: the operations of csrc/cpu/simd/math.h, in its order.
//
// The coefficients are those of that file; tests/gpu/w8a8_test.cpp compares the results.
#pragma once
#include "gpu.h"
#include "kinds.h"

namespace gpu {

// The second where either is NaN, as on the CPU.
GPU_FN float smaller(float a, float b) { return a < b ? a : b; }
GPU_FN float larger(float a, float b) { return a > b ? a : b; }

// Horner's rule: c[0] + x * (c[1] + x * (...)).
template <int kTerms>
GPU_FN float polynomial(const float (&c)[kTerms], float x) {
  float sum = c[kTerms - 1];
#pragma unroll
  for (int i = kTerms - 2; i >= 0; --i) sum = fma_rn(sum, x, c[i]);
  return sum;
}

// e^x. Below -87.33 0, above 88.72 infinity.
GPU_FN float exp(float x) {
  constexpr float kLowest = -87.33f, kHighest = 88.72f;
  constexpr float kSeries[] = {1.0f,           1.0f,           0x1.fffffcp-2f, 0x1.555490p-3f,
                               0x1.5558f4p-5f, 0x1.123a6cp-7f, 0x1.6a2352p-10f};
  if (x != x) return x;
  if (x < kLowest) return 0.0f;
  if (x > kHighest) return float_of_bits(0x7f800000u);
  const int n = to_int(mul_rn(x, 0x1.715476p+0f));  // x / ln 2
  const float whole = to_float(n);
  // ln 2 in two parts: n times the first is exact.
  float r = fma_rn(whole, -0x1.62e4p-1f, x);
  r = fma_rn(whole, -0x1.7f7d1cp-20f, r);
  return float_of_bits(bits_of(polynomial(kSeries, r)) + (static_cast<uint32_t>(n) << 23));
}

// x P(x^2) / Q(x^2); +-1 beyond 9.01, where the float result is 1.
GPU_FN float tanh(float x) {
  constexpr float kLimit = 9.01f;
  constexpr float kP[] = {0x1.fffffep-1f,  0x1.0892a6p-3f,   0x1.7ebdaep-9f,
                          0x1.36c160p-17f, -0x1.b67fcap-27f, 0x1.4053f8p-36f};
  constexpr float kQ[] = {1.0f, 0x1.d99e86p-2f, 0x1.854a44p-6f, 0x1.de29f0p-13f};
  if (x > kLimit) return 1.0f;
  if (x < -kLimit) return -1.0f;
  const float t = mul_rn(x, x);
  const float y = div_rn(mul_rn(x, polynomial(kP, t)), polynomial(kQ, t));
  return larger(-1.0f, smaller(1.0f, y));
}

// x (0.5 + x R(x^2)), where R is a polynomial in u = shrink x^2 - 1; the bracket is kept within 0..1.
template <int kTerms>
GPU_FN float gelu(float x, const float (&c)[kTerms], float limit, float shrink) {
  const float u = fma_rn(smaller(mul_rn(x, x), limit), shrink, -1.0f);
  const float half = larger(-0.5f, smaller(0.5f, mul_rn(x, polynomial(c, u))));
  return mul_rn(x, add_rn(0.5f, half));
}

GPU_FN float gelu_erf(float x) {
  constexpr float kSeries[] = {0x1.166cf4p-3f,  -0x1.157a62p-4f,  0x1.99cd06p-5f,  -0x1.471ae6p-5f, 0x1.060fcep-5f,
                               -0x1.95126ap-6f, 0x1.262bd6p-6f,   -0x1.99c492p-7f, 0x1.187e38p-7f,  -0x1.39dab6p-8f,
                               0x1.d7e42ep-10f, -0x1.40352ap-10f, 0x1.4c8856p-10f, -0x1.f8a7b2p-12f};
  return gelu(x, kSeries, 0x1.b0a3d8p+4f, 0x1.2ef566p-4f);
}

GPU_FN float gelu_tanh(float x) {
  constexpr float kSeries[] = {0x1.218b0cp-3f,  -0x1.203804p-4f, 0x1.a7313cp-5f,  -0x1.4c1952p-5f, 0x1.009534p-5f,
                               -0x1.79492ep-6f, 0x1.08bdf8p-6f,  -0x1.566dc6p-7f, 0x1.6b4f6p-8f,   -0x1.8e8f2cp-9f,
                               0x1.736952p-9f,  -0x1.0c66d8p-9f, 0x1.2e7122p-11f};
  return gelu(x, kSeries, 25.0f, 0x1.47ae14p-4f);
}

GPU_FN float silu(float x) { return div_rn(x, add_rn(1.0f, exp(-x))); }

// All threads of a block have the same activation: the branch is uniform.
template <int kCount>
GPU_FN void activate(float (&x)[kCount], Activation activation) {
  switch (activation) {
    case Activation::none:
      break;
    case Activation::relu:
#pragma unroll
      for (float& v : x) v = larger(0.0f, v);
      break;
    case Activation::gelu_erf:
#pragma unroll
      for (float& v : x) v = gelu_erf(v);
      break;
    case Activation::gelu_tanh:
#pragma unroll
      for (float& v : x) v = gelu_tanh(v);
      break;
    case Activation::silu:
#pragma unroll
      for (float& v : x) v = silu(v);
      break;
    case Activation::tanh:
#pragma unroll
      for (float& v : x) v = tanh(v);
      break;
  }
}

}  // namespace gpu
