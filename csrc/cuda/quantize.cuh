// int8 activations per token with the bits of the CPU (csrc/cpu/kernels.h): scale = amax / 127, q = rint(v * (127 /
// amax)) where v = x * input_scale; amax below 1e-30 gives q = 0; NaN or infinity in a row gives q = 0 and scale NaN.
//
// In front of it, if asked for, a sum of two tensors (the residual connection) and LayerNorm or RMSNorm over the row.
#pragma once
#include "element.cuh"
#include "gpu.h"

namespace gpu {

template <typename T>
struct RowNorm {
  const T* added;      // [rows, k], added to x and rounded to T before all else; or nullptr
  T* sum;              // [rows, k], where that goes, none of the inputs; or nullptr
  const float* gamma;  // [k]
  const float* beta;   // [k], or nullptr
  float eps;
  bool centered;  // LayerNorm; otherwise RMSNorm, which subtracts no mean
};

// kRowThreads threads take a row: a warp, or the whole block. A thread takes four columns at a time and keeps kHeld
// such vectors; what is beyond in longer rows it reads again in every pass. kWhole: rows start on four elements, and k
// is a multiple of four.
template <typename T, int kRowThreads, int kHeld, bool kNormed, bool kWhole>
struct QuantizeRows {
  static constexpr int kThreads = 256;
  static constexpr int kRows = kThreads / kRowThreads;  // of a block
  static constexpr int kRowWarps = kRowThreads / 32;
  static constexpr int kSharedBytes = kRowWarps == 1 ? 0 : 3 * kRowWarps * 4;  // three sums or maxima over the row

  const T* x;  // the row
  const float* input_scale;
  int k, k_pad, lane;  // lane: of the threads of the row
  int64_t row_at;      // elements before the row
  RowNorm<T> norm;
  float mean = 0, inverse = 0;  // of the row: inverse is 1 / standard deviation

  // f(partial, partial) over all threads of the row, the same on each; `slot` is another one for each call.
  template <typename F>
  static GPU_FN uint32_t over_row(uint32_t value, int slot, F f) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value = f(value, shuffle_xor(value, mask));
    if (kRowWarps == 1) return value;
    const uint32_t at = shared_base() + slot * kRowWarps * 4;
    if ((thread() & 31) == 0) store_shared4(at + (thread() >> 5) * 4, value);
    sync_threads();
    uint32_t total = load_shared4(at);
#pragma unroll
    for (int warp = 1; warp < kRowWarps; ++warp) total = f(total, load_shared4(at + warp * 4));
    return total;
  }
  static GPU_FN float sum_over_row(float value, int slot) {
    const auto add = [](uint32_t a, uint32_t b) { return bits_of(add_rn(float_of_bits(a), float_of_bits(b))); };
    return float_of_bits(over_row(bits_of(value), slot, add));
  }

  GPU_FN int count_at(int column) const {
    const int left = k - column;
    return left <= 0 ? 0 : kWhole || left > 4 ? 4 : left;
  }

  // Four columns of x, or of x + added.
  GPU_FN void read(int column, float (&v)[4]) const {
    const int count = count_at(column);
    load4(x + column, count, kWhole, v);
    if constexpr (kNormed) {
      if (norm.added == nullptr) return;
      float other[4];
      load4(norm.added + row_at + column, count, kWhole, other);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = rounded<T>(add_rn(v[i], other[i]));
    }
  }

  // What is quantized, of what read() gave.
  GPU_FN void transform(int column, float (&v)[4]) const {
    const int count = count_at(column);
    float factor[4];
    if constexpr (kNormed) {
      float shift[4] = {};
      load4(norm.gamma + column, count, true, factor);  // 0 from column k on: the result is 0 there
      if (norm.beta != nullptr) load4(norm.beta + column, count, true, shift);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = fma_rn(mul_rn(sub_rn(v[i], mean), inverse), factor[i], shift[i]);
    }
    if (input_scale == nullptr) return;
    load4(input_scale + column, count, true, factor);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = mul_rn(v[i], factor[i]);
  }

  GPU_FN int column_of(int vector) const { return (vector * kRowThreads + lane) * 4; }

  // f(column, four values) over the held vectors of the thread, and over what read() gives beyond.
  template <typename F, typename G>
  GPU_FN void over_vectors(float (&held)[kHeld][4], F f, G prepare) const {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) f(column_of(i), held[i]);
    for (int i = kHeld; column_of(i) < k_pad; ++i) {
      float v[4];
      read(column_of(i), v);
      prepare(column_of(i), v);
      f(column_of(i), v);
    }
  }

  GPU_FN void find_moments(float (&held)[kHeld][4]) {
    const auto as_read = [](int, float (&)[4]) {};
    float sum = 0;
    const auto take = [&](int column, float (&v)[4]) {
      if (norm.sum != nullptr) store4(norm.sum + row_at + column, count_at(column), kWhole, v);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum = add_rn(sum, v[i]);
    };
    over_vectors(held, take, as_read);
    const float columns = to_float(k);
    const float total = sum_over_row(sum, 0);
    mean = norm.centered ? div_rn(total, columns) : 0.0f;
    float squares = 0;
    const auto square = [&](int column, float (&v)[4]) {
      const int count = count_at(column);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float difference = sub_rn(v[i], mean);
        if (i < count) squares = fma_rn(difference, difference, squares);
      }
    };
    over_vectors(held, square, as_read);
    const float variance = div_rn(sum_over_row(squares, 1), columns);
    inverse = div_rn(1.0f, sqrt_rn(add_rn(variance, norm.eps)));
  }

  // q: the row, k_pad bytes; scale: its own.
  GPU_FN void run(int8_t* q, float* scale) {
    float held[kHeld][4];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) read(column_of(i), held[i]);
    if constexpr (kNormed) find_moments(held);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) transform(column_of(i), held[i]);
    const auto prepare = [&](int column, float (&v)[4]) { transform(column, v); };

    uint32_t top = 0;  // largest magnitude as bits: ordered like the values, with infinity and NaN on top
    const auto larger = [](uint32_t a, uint32_t b) { return a > b ? a : b; };
    const auto take = [&](int, float (&v)[4]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) top = larger(top, bits_of(v[i]) & 0x7fffffffu);
    };
    over_vectors(held, take, prepare);
    top = over_row(top, 2, larger);

    const bool finite = top < 0x7f800000u;
    const float amax = float_of_bits(top);
    const float steps = finite && amax >= 1e-30f ? div_rn(127.0f, amax) : 0.0f;
    if (lane == 0) store_global(scale, finite ? div_rn(amax, 127.0f) : float_of_bits(0x7fffffffu));
    const auto write = [&](int column, float (&v)[4]) {
      if (column >= k_pad) return;
      int32_t codes[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) codes[i] = to_int(mul_rn(v[i], steps));  // NaN becomes 0
      const uint32_t packed = pack_int8(codes[0], codes[1], pack_int8(codes[2], codes[3], 0));
      store_global(static_cast<uint32_t*>(static_cast<void*>(q + column)), packed);
    };
    over_vectors(held, write, prepare);
  }

  static GPU_FN void launch(const T* x, const float* input_scale, int8_t* q, float* scale, int rows, int k, int k_pad,
                            const RowNorm<T>& norm) {
    const int row = block_x() * kRows + thread() / kRowThreads;
    if (row >= rows) return;  // the whole warp; where a row has several, no block has too many rows
    const int64_t row_at = static_cast<int64_t>(row) * k;
    QuantizeRows self{x + row_at, input_scale, k, k_pad, thread() % kRowThreads, row_at, norm};
    self.run(q + static_cast<int64_t>(row) * k_pad, scale + row);
  }
};

// Rows that can't be read by vectors are slow anyway: they keep one vector, for the sake of small kernels.
template <typename T, int kRowThreads, bool kNormed>
GPU_FN void quantize_rows(const T* x, const float* input_scale, int8_t* q, float* scale, int rows, int k, int k_pad,
                          int whole, const RowNorm<T>& norm) {
  if (whole != 0) {
    QuantizeRows<T, kRowThreads, 8, kNormed, true>::launch(x, input_scale, q, scale, rows, k, k_pad, norm);
  } else {
    QuantizeRows<T, kRowThreads, 1, kNormed, false>::launch(x, input_scale, q, scale, rows, k, k_pad, norm);
  }
}

}  // namespace gpu
