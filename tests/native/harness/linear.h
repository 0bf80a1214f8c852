// Random packed layers and quantized activations, with the plain values that they stand for.
#pragma once

#include "common.h"

namespace harness {

// A linear layer: plain weights and their packed form, by the layout in csrc/cpu/packed.h.
struct Layer {
  Layer(int64_t n, int64_t k, int bits, int group, bool symmetric, bool with_bias, bool extreme,
        bool two_levels = false)
      : n_pad(round_up(n, 32)),
        k_pad(round_up(k, 64)),
        groups(bits != 8 ? (k_pad + group - 1) / group : 1),
        weight(n * k, 0),
        data(n_pad * k_pad * bits / 8),
        scale(groups * n_pad),
        sums(n_pad),
        zero(groups * n_pad),
        group_scale(groups * n_pad),
        bias(n_pad),
        panel(0) {
    const int64_t most = (1 << bits) - 1, quads = bits == 8 ? 1 : 4 / bits;  // largest code; quads of k in 64 bytes
    for (int64_t i = 0; i < scale.size; ++i) scale[i] = 0.001f + std::fabs(random_float(0.01f));
    for (int64_t i = 0; i < zero.size; ++i)
      zero[i] = static_cast<uint8_t>(symmetric ? 1 << (bits - 1) : random_int(0, most));
    for (int64_t i = 0; i < group_scale.size && two_levels; ++i)
      group_scale[i] = static_cast<uint8_t>(extreme ? 17 - random_int(0, 1) * 8 : random_int(1, 17));
    for (int64_t i = 0; i < n_pad; ++i) bias[i] = random_float(1.0f);
    for (int64_t c = 0; c < n; ++c) {
      for (int64_t i = 0; i < k; ++i) {
        if (bits == 8) {
          const int64_t v = extreme ? (random_int(0, 1) ? -128 : 127) : random_int(-127, 127);
          weight[c * k + i] = static_cast<int>(v);
          data[((c / 16 * (k_pad / 4) + i / 4) * 16 + c % 16) * 4 + i % 4] = static_cast<uint8_t>(v);
          sums[c] += static_cast<int32_t>(v);
        } else {
          const int64_t of_group = i / group * n_pad + c, middle = zero[of_group];
          int64_t u = extreme ? random_int(0, 1) * most : random_int(0, most);
          if (two_levels) {  // the product must be an int8
            const int64_t reach = 127 / group_scale[of_group];
            u = std::max(middle - reach, std::min(middle + reach, u));
          }
          weight[c * k + i] = static_cast<int>((u - middle) * (two_levels ? group_scale[of_group] : 1));
          const int64_t columns = 4 * quads, place = i / 4 % quads * 2 + c % 32 / 16;
          uint8_t& byte = data[((c / 32 * (k_pad / columns) + i / columns) * 16 + c % 16) * 4 + i % 4];
          byte = static_cast<uint8_t>(byte | u << (bits * place));
        }
      }
    }
    packed = {bits,        group,
              n,           k,
              n_pad,       k_pad,
              groups,      data.get(),
              scale.get(), sums.get(),
              zero.get(),  with_bias ? bias.get() : nullptr,
              symmetric,   two_levels ? group_scale.get() : nullptr,
              nullptr};
  }
  int64_t n_pad, k_pad, groups;
  std::vector<int> weight;
  Buffer<uint8_t> data;
  Buffer<float> scale;
  Buffer<int32_t> sums;
  Buffer<uint8_t> zero, group_scale;
  Buffer<float> bias;
  Buffer<int8_t> panel;
  PackedLinear packed;
};

// Rows of large numbers, of small ones with few large among them, and of any between: what a kernel can add up in 16
// bits depends on them. Extreme ones reach 128 or just pass it, one, two or four together.
struct Rows {
  Rows(int64_t m, int64_t k, bool extreme)
      : k_pad(round_up(k, 64)), ld(quantized_row_bytes(k_pad)), q(m * ld), scale(m), sums(m * k_pad / 32) {
    for (int64_t i = 0; i < q.size; ++i) q[i] = 99;  // between rows there may be anything
    for (int64_t r = 0; r < m; ++r) {
      // A row that held NaN or infinity has NaN for its scale; with every bit set, careless rounding makes it a number.
      scale[r] = random_int(0, 19) ? 0.001f + std::fabs(random_float(0.05f)) : std::nanf("0x3fffff");
      for (int64_t i = k; i < k_pad; ++i) q[r * ld + i] = 0;
      constexpr int64_t kExtremes[] = {127, 65, 64, 33, 32}, kSpreads[] = {127, 80, 50, 30, 12};
      const int64_t extreme_size = kExtremes[random_int(0, 4)], spread = kSpreads[random_int(0, 4)];
      for (int64_t i = 0; i < k; ++i) {
        const int64_t v = extreme             ? (random_int(0, 1) ? -extreme_size : extreme_size)
                          : random_int(0, 49) ? random_int(-spread, spread)
                                              : random_int(-127, 127);
        q[r * ld + i] = static_cast<int8_t>(v);
        sums[r * (k_pad / 32) + i / 32] += static_cast<int32_t>(v);
      }
    }
  }
  QuantizedRows view() { return {q.get(), ld, scale.get(), sums.get(), k_pad}; }
  int64_t k_pad, ld;
  Buffer<int8_t> q;
  Buffer<float> scale;
  Buffer<int32_t> sums;
};

inline void run_gemm(const Kernels& t, Layer& w, const QuantizedRows& a, const Epilogue& e, GemmRange r) {
  if (w.panel.size != panel_bytes(t, w.packed)) w.panel = Buffer<int8_t>(panel_bytes(t, w.packed));
  r.panel = w.panel.get();
  gemm_of(t, w.packed)(w.packed, a, e, r);
}

}  // namespace harness
