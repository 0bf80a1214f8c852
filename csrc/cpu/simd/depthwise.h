// Depthwise convolutions by dot products, over Codes. Include it after one zips_*.h.
//
// Zips make quads of four taps of a filter row of registers that lie a tap apart, and one instruction multiplies a quad
// by its weights. At stride 1 a row of the map is a flat line of bytes: output byte i is made of input bytes i, i +
// pixel, i + 2 * pixel ..., whatever channels they are, with weights that repeat after `period` vectors. So no register
// has idle lanes, and several output rows share the quads of an input row. At other strides a pixel takes blocks of
// channels.
//
// A policy says how products are made: Products::load (a register of codes), Products::Quads (what add takes),
// Products::add, kSigned (codes are q - 128), and kRows<kernel>, output rows at a time.
#pragma once

#include "blocks.h"
#include "requantize.h"

namespace kdnative::cpu {
namespace {

// Weights and what belongs to them, of the Codes::width bytes from byte `at` of a line on, 0 <= at < 64 * period.
struct DepthwiseWeights {
  const uint8_t* taps;  // bytes of int8
  int64_t row;  // bytes of a filter row
  const int32_t* start;
  const float *scale, *bias;

  DepthwiseWeights(const PackedDepthwise& w, bool is_signed, int64_t at) {
    const int64_t part = at % 64, lane = at / 64 * 64 + part / 4;
    row = (w.kernel_w + 3) / 4 * 256;
    taps = reinterpret_cast<const uint8_t*>(w.weights) + at / 64 * w.kernel_h * row + part;
    start = (is_signed ? w.start_signed : w.start) + lane;
    scale = w.scale + lane;
    bias = w.bias + lane;
  }
  Codes weights(int64_t ky, int64_t group, int vector) const {
    return Codes::load(taps + ky * row + group * 256 + 64 * vector);
  }
};

// Taps of a filter row, zipped: their weights are 0 beyond `taps`, so that any byte can stand there.
template <typename Products>
struct ZippedTaps {
  Codes low[2], high[2];

  // Taps [first, last] of those at p, p + step, ...; at most four.
  ZippedTaps(const uint8_t* p, int64_t step, int64_t first, int64_t last) {
    const auto tap = [&](int64_t t) { return Products::load(p + (t < last ? t : last) * step); };
    const Codes a = tap(first), b = tap(first + 1), c = tap(first + 2), d = tap(first + 3);
    low[0] = zip_low(a, b), high[0] = zip_high(a, b);
    low[1] = zip_low(c, d), high[1] = zip_high(c, d);
  }
  template <int vector>
  typename Products::Quads quads() const {
    if constexpr (vector == 0) return Products::quads(zip_pairs_low(low[0], low[1]));
    if constexpr (vector == 1) return Products::quads(zip_pairs_high(low[0], low[1]));
    if constexpr (vector == 2) return Products::quads(zip_pairs_low(high[0], high[1]));
    if constexpr (vector == 3) return Products::quads(zip_pairs_high(high[0], high[1]));
  }
};

template <int at>
struct VectorIndex {
  static constexpr int value = at;
};

// f(VectorIndex<0>) .. f(VectorIndex<3>).
template <typename F>
[[gnu::always_inline]] inline void for_vectors(const F& f) {
  f(VectorIndex<0>{});
  f(VectorIndex<1>{});
  f(VectorIndex<2>{});
  f(VectorIndex<3>{});
}

using RowSums = Ints[4];

[[gnu::always_inline]] inline void start_sums(const DepthwiseWeights& w, RowSums& sum) {
  for (int j = 0; j < 4; ++j) sum[j] = Ints::load(w.start + 16 * j);
}

// The first n bytes of a register of results.
[[gnu::always_inline]] inline void finish_sums(const DepthwiseWeights& w, const Requantizer& end, bool swish,
                                               const RowSums& sum, uint8_t* out, int64_t n) {
  Vec v[4];
  for (int j = 0; j < 4; ++j) v[j] = sum[j].to_float() * Vec::load(w.scale + 16 * j) + Vec::load(w.bias + 16 * j);
  const Codes codes = swish ? end.finish<true>(v) : end.finish<false>(v);
  if (n >= Codes::width) {
    codes.store(out);
  } else {
    codes.store(out, n);
  }
}

// One call's constants, and where it works.
struct DepthwiseLine {
  const PackedDepthwise& w;
  const Requantizer& end;
  bool swish;
  int64_t tap;                // bytes between two taps of a filter row
  int64_t in_row, next_line;  // bytes of the input between two filter rows, and of the output between two rows

  // A kernel of `kernel` x `kernel` taps on `rows` output rows whose input rows lie in_row apart, too.
  template <typename Products, int kernel, int rows>
  [[gnu::always_inline]] void square(const DepthwiseWeights& at, const uint8_t* in, uint8_t* out, int64_t n) const {
    constexpr int kGroups = (kernel + 3) / 4;
    RowSums sum[rows];
    for (int r = 0; r < rows; ++r) start_sums(at, sum[r]);
#pragma GCC unroll 10
    for (int y = 0; y < rows + kernel - 1; ++y) {
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) {
        const ZippedTaps<Products> taps(in + y * in_row, tap, 4 * g, kernel - 1);
        for_vectors([&](auto v) {
          const auto quads = taps.template quads<v.value>();
#pragma GCC unroll 4
          for (int r = 0; r < rows; ++r) {
            const int ky = y - r;
            if (ky < 0 || ky >= kernel) continue;
            sum[r][v.value] = Products::add(sum[r][v.value], quads, at.weights(ky, g, v.value));
          }
        });
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) finish_sums(at, end, swish, sum[r], out + r * next_line, n);
  }

  // Any kernel, one row.
  template <typename Products>
  [[gnu::always_inline]] void any(const DepthwiseWeights& at, const uint8_t* in, uint8_t* out, int64_t n) const {
    RowSums sum;
    start_sums(at, sum);
    for (int64_t ky = 0; ky < w.kernel_h; ++ky) {
      for (int64_t kx = 0; kx < w.kernel_w; kx += 4) {
        const ZippedTaps<Products> taps(in + ky * in_row, tap, kx, w.kernel_w - 1);
        for_vectors([&](auto v) {
          sum[v.value] = Products::add(sum[v.value], taps.template quads<v.value>(), at.weights(ky, kx / 4, v.value));
        });
      }
    }
    finish_sums(at, end, swish, sum, out, n);
  }
};

// f(line, weights, in, out, n) makes the results of one register; `kernel` 0 is any kernel.
template <typename Products, int kernel>
struct Step {
  template <int rows>
  [[gnu::always_inline]] static void run(const DepthwiseLine& line, const DepthwiseWeights& at, const uint8_t* in,
                                         uint8_t* out, int64_t n) {
    if constexpr (kernel == 0) {
      static_assert(rows == 1);
      line.any<Products>(at, in, out, n);
    } else {
      line.square<Products, kernel, rows>(at, in, out, n);
    }
  }

  // Stride 1: `bytes` bytes of each of `rows` rows.
  template <int rows>
  [[gnu::noinline]] static void flat(const DepthwiseLine& line, const uint8_t* in, uint8_t* out, int64_t bytes) {
    const int64_t around = 64 * line.w.period;
    for (int64_t i = 0, at = 0; i < bytes; i += Codes::width) {
      run<rows>(line, DepthwiseWeights(line.w, Products::kSigned, at), in + i, out + i, bytes - i);
      at = at + Codes::width == around ? 0 : at + Codes::width;
    }
  }

  // Any stride: a row of `width` pixels that are `in_pixel` and `out_pixel` bytes apart.
  [[gnu::noinline]] static void pixels(const DepthwiseLine& line, const uint8_t* in, int64_t in_pixel, uint8_t* out,
                                       int64_t out_pixel, int64_t width, int64_t channels) {
    for (int64_t c = 0; c < channels; c += Codes::width) {
      const DepthwiseWeights at(line.w, Products::kSigned, c);
      for (int64_t x = 0; x < width; ++x)
        run<1>(line, at, in + x * in_pixel + c, out + x * out_pixel + c, channels - c);
    }
  }
};

template <typename Products, int kernel>
inline void depthwise_rows(const PackedDepthwise& w, const Epilogue8& e, const Map& in, const Map& out, int64_t begin,
                           int64_t end, LookUpFn* look_up) {
  constexpr int kRows = kernel == 0 ? 1 : Products::template kRows<kernel>;
  const Requantizer last(e);
  const DepthwiseLine line{w,      last, e.finish == Finish::hard_swish, w.dilation_w * in.pixel, w.dilation_h * in.row,
                           out.row};
  // Rows of the output share input rows where both move by one.
  const bool flat = w.stride_w == 1 && in.pixel == w.pixel && out.pixel == w.pixel;
  const int64_t most = flat && w.stride_h == 1 && w.dilation_h == 1 ? kRows : 1;
  const int64_t bytes = (out.width - 1) * out.pixel + out.channels;
  for (int64_t r = begin; r < end;) {
    const int64_t image = r / out.height, y = r % out.height;
    const int64_t last = end < (image + 1) * out.height ? end - r : out.height - y;  // rows of this image
    for_row_blocks<kRows>(0, most == 1 ? 1 : last, [&](int64_t first, auto rows) {
      const uint8_t* from =
          in.data + image * in.image + ((y + first) * w.stride_h - w.pad_top) * in.row - w.pad_left * in.pixel;
      uint8_t* to = out.data + image * out.image + (y + first) * out.row;
      if (flat) {
        Step<Products, kernel>::template flat<rows.count>(line, from, to, bytes);
      } else {
        Step<Products, kernel>::pixels(line, from, w.stride_w * in.pixel, to, out.pixel, out.width, out.channels);
      }
      if (e.finish != Finish::table) return;
      for (int64_t i = 0; i < rows.count; ++i) {
        uint8_t* row = to + i * out.row;
        if (flat) {
          look_up(row, bytes, e.table, row);
          continue;
        }
        for (int64_t x = 0; x < out.width; ++x)
          look_up(row + x * out.pixel, out.channels, e.table, row + x * out.pixel);
      }
    });
    r += most == 1 ? 1 : last;
  }
}

template <typename Products>
inline void depthwise_of(const PackedDepthwise& w, const Epilogue8& e, const Map& in, const Map& out, int64_t begin,
                         int64_t end, LookUpFn* look_up) {
  const auto run = w.kernel_h != w.kernel_w ? depthwise_rows<Products, 0>
                   : w.kernel_h == 3        ? depthwise_rows<Products, 3>
                   : w.kernel_h == 5        ? depthwise_rows<Products, 5>
                   : w.kernel_h == 7        ? depthwise_rows<Products, 7>
                                            : depthwise_rows<Products, 0>;
  run(w, e, in, out, begin, end, look_up);
}

}  // namespace
}  // namespace kdnative::cpu
