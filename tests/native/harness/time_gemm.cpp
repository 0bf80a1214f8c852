// Times of the GEMMs: for a look while changing a kernel. The figures that count come from benchmarks/.
#include <chrono>

#include "checks.h"
#include "linear.h"

namespace harness {
namespace {

// The fastest of several short batches: what the kernel costs when nothing else interrupts it.
double microseconds(const auto& f) {
  using Clock = std::chrono::steady_clock;
  const auto batch = [&](int count) {
    const auto start = Clock::now();
    for (int j = 0; j < count; ++j) f();
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count() / count;
  };
  f();
  double best = batch(1);
  const int count = static_cast<int>(std::fmax(1.0, std::fmin(1000.0, 300.0 / (best + 0.1))));
  for (double spent = 0; spent < 40e3;) {
    const double us = batch(count);
    best = std::fmin(best, us);
    spent += us * count;
  }
  return best;
}

}  // namespace

// Quantization of the activations plus GEMM, one thread.
void time_gemms(const Kernels& t) {
  const int64_t shapes[][2] = {{384, 384}, {1536, 384}, {768, 768}, {3072, 768}, {768, 3072}, {4096, 4096}};
  std::printf(
      "%s, one thread: us (GOPS), quantization included; quantize alone\n%-12s %5s %18s %18s %18s %18s %18s %10s\n",
      t.isa, "N x K", "M", "w8a8", "w8a8 gelu", "w4a8-g128", "w4a8-g32", "w4a8-g128-int", "quantize");
  for (const auto& s : shapes) {
    Layer w8(s[0], s[1], 8, 0, true, true, false), w4(s[0], s[1], 4, 128, true, true, false),
        w32(s[0], s[1], 4, 32, true, true, false), w_int(s[0], s[1], 4, 128, false, true, false, true);
    for (const int64_t m : {1, 8, 32, 128, 512}) {
      Buffer<float> x(m * s[1]), scale(m), out(m * s[0]);
      const int64_t ld_q = quantized_row_bytes(w8.k_pad);
      Buffer<int8_t> q(m * ld_q);
      Buffer<int32_t> sums(m * w8.k_pad / 32);
      for (int64_t i = 0; i < x.size; ++i) x[i] = std::normal_distribution<float>()(rng);
      const auto quantize = [&] {
        t.quantize_rows(x.get(), DType::f32, s[1], nullptr, m, s[1], w8.k_pad, q.get(), ld_q, scale.get(), sums.get());
      };
      const auto linear = [&](Layer& w, Activation act) {
        return microseconds([&] {
          quantize();
          const Epilogue e = {out.get(), s[0], DType::f32, act, nullptr, 0};
          run_gemm(t, w, {q.get(), ld_q, scale.get(), sums.get(), w.k_pad}, e, {0, m, 0, w.n_pad / 32});
        });
      };
      const double ops = 2e-3 * m * s[0] * s[1];
      const double us[] = {linear(w8, Activation::none), linear(w8, Activation::gelu_erf), linear(w4, Activation::none),
                           linear(w32, Activation::none), linear(w_int, Activation::none)};
      std::printf("%5ldx%-6ld %5ld", static_cast<long>(s[0]), static_cast<long>(s[1]), static_cast<long>(m));
      for (const double u : us) std::printf(" %9.1f (%6.0f)", u, ops / u);
      std::printf(" %10.1f\n", microseconds(quantize));
    }
  }
}

}  // namespace harness
