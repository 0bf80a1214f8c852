// quantize_rows against plain loops: the exact bits, also of ties, zeros, NaN and infinity, with input scales and
// without.
#include "checks.h"

namespace harness {

void check_quantize(const Kernels& t) {
  for (int i = 0; i < 300; ++i) {
    const int64_t rows = random_int(0, 6), k = i < 150 ? i + 1 : random_int(1, 1100), k_pad = round_up(k, 64),
                  ld = k + random_int(0, 3);
    const auto type = static_cast<DType>(i % 3);
    Buffer<float> x(rows * ld);
    Buffer<uint16_t> half(rows * ld);
    for (int64_t j = 0; j < x.size; ++j) {
      x[j] = random_int(0, 9) ? random_float(3.0f) : random_int(-2, 2) * 0.5f;  // with ties
      if (type != DType::f32) {
        half[j] = type == DType::bf16 ? float_to_bf16(x[j]) : float_to_f16(x[j]);
        x[j] = type == DType::bf16 ? bf16_to_float(half[j]) : f16_to_float(half[j]);
      }
    }
    const float special[] = {0.0f, NAN, INFINITY, -INFINITY, 1e-31f, 1e-30f, 3e38f, 127.0f};
    const int kind = static_cast<int>(random_int(0, 15));
    if (rows > 0 && kind < 8 && type == DType::f32) {
      const bool whole = kind == 0 || kind == 4 || kind == 5;
      for (int64_t j = 0; j < k; ++j) {
        if (whole) x[j] = special[kind];
      }
      x[random_int(0, k - 1)] = special[kind];
    }
    const int64_t ld_q = k_pad + 64 * random_int(0, 1);
    Buffer<int8_t> q(rows * ld_q);
    Buffer<float> scale(rows);
    Buffer<int32_t> sums(rows * k_pad / 32);
    std::memset(q.get(), 99, q.size);
    std::memset(sums.get(), 99, sums.size * sizeof(int32_t));
    const bool with_sums = random_int(0, 3) > 0;
    const void* data = type == DType::f32 ? static_cast<const void*>(x.get()) : half.get();
    const bool scaled = random_int(0, 1) > 0;
    Buffer<float> factors(k);
    for (int64_t j = 0; j < k; ++j) factors[j] = random_factor();
    t.quantize_rows(data, type, ld, scaled ? factors.get() : nullptr, rows, k, k_pad, q.get(), ld_q, scale.get(),
                    with_sums ? sums.get() : nullptr);
    for (int64_t r = 0; r < rows && scaled; ++r)
      for (int64_t j = 0; j < k; ++j) x[r * ld + j] *= factors[j];
    for (int64_t r = 0; r < rows; ++r) {
      float amax = 0.0f;
      bool finite = true;
      for (int64_t j = 0; j < k; ++j) {
        finite = finite && std::isfinite(x[r * ld + j]);
        amax = std::fmax(amax, std::fabs(x[r * ld + j]));
      }
      bool same = finite ? scale[r] == amax / 127.0f : std::isnan(scale[r]);
      const float inverse = finite && amax >= 1e-30f ? 127.0f / amax : 0.0f;
      for (int64_t g = 0; g < k_pad / 32; ++g) {
        int32_t sum = 0;
        for (int64_t j = g * 32; j < (g + 1) * 32; ++j) {
          const int wanted = j < k && inverse > 0 ? static_cast<int>(std::nearbyint(x[r * ld + j] * inverse)) : 0;
          same = same && q[r * ld_q + j] == wanted;
          sum += wanted;
        }
        same = same && (!with_sums || sums[r * (k_pad / 32) + g] == sum);
      }
      for (int64_t j = k_pad; j < ld_q; ++j) same = same && q[r * ld_q + j] == 99;
      check(same, t.isa,
            "quantize_rows k=" + std::to_string(k) + " type=" + std::to_string(i % 3) +
                " kind=" + std::to_string(kind) + (scaled ? " with input scales" : ""));
    }
  }
}

}  // namespace harness
