#include "../instruction_sets.h"
#include "finish.h"

namespace kdnative::cpu::reference {
namespace {

int32_t weight8(const PackedLinear& w, int64_t n, int64_t k) {
  const auto* data = reinterpret_cast<const int8_t*>(w.data);
  return data[((n / 16 * (w.k_pad / 4) + k / 4) * 16 + n % 16) * 4 + k % 4];
}

int32_t code(const PackedLinear& w, int64_t n, int64_t k) {  // u in [0, 2^bits)
  const int64_t quads = 4 / w.bits, columns = 4 * quads;     // of k, in 64 bytes
  const uint8_t byte = w.data[((n / 32 * (w.k_pad / columns) + k / columns) * 16 + n % 16) * 4 + k % 4];
  return byte >> w.bits * (k / 4 % quads * 2 + n % 32 / 16) & ((1 << w.bits) - 1);
}

}  // namespace

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r) {
  for_each(w, r, [&](int64_t row, int64_t column) {
    const int8_t* q = a.q + row * a.ld;
    int32_t dot = 0;
    for (int64_t k = 0; k < w.k; ++k) dot += q[k] * weight8(w, column, k);
    finish(w, e, row, column, static_cast<float>(dot) * (a.scale[row] * w.scale[column]));
  });
}

void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r) {
  for_each(w, r, [&](int64_t row, int64_t column) {
    const int8_t* q = a.q + row * a.ld;
    float sum = 0.0f;
    for (int64_t g = 0; g < w.k / w.group; ++g) {
      const int32_t zero = w.zero[g * w.n_pad + column];
      int32_t dot = 0;
      for (int64_t k = g * w.group; k < (g + 1) * w.group; ++k) dot += q[k] * (code(w, column, k) - zero);
      sum = std::fma(static_cast<float>(dot), w.scale[g * w.n_pad + column], sum);
    }
    finish(w, e, row, column, sum * a.scale[row]);
  });
}

void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r) {
  gemm_w4a8(w, a, e, r);  // code() knows the width
}

}  // namespace kdnative::cpu::reference
