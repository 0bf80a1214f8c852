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

// Weights and what belongs to them, of the Codes::width bytes of a line from byte 64 * vector on.
struct DepthwiseWeights {
  const uint8_t* taps;  // bytes of int8
  const int32_t* start;
  const float *scale, *bias;

  DepthwiseWeights(const PackedDepthwise& w, bool is_signed, int64_t vector)
      : taps(reinterpret_cast<const uint8_t*>(w.weights) + vector * taps_of(w)),
        start((is_signed ? w.start_signed : w.start) + 64 * vector),
        scale(w.scale + 64 * vector),
        bias(w.bias + 64 * vector) {}

  static int64_t taps_of(const PackedDepthwise& w) { return w.kernel_h * ((w.kernel_w + 3) / 4) * 256; }

  // Those `part` bytes further, within the 64.
  DepthwiseWeights at(int64_t part) const {
    DepthwiseWeights other = *this;
    other.taps += part;
    other.start += part / 4, other.scale += part / 4, other.bias += part / 4;
    return other;
  }
  Codes quads(int64_t group, int vector) const { return Codes::load(taps + group * 256 + 64 * vector); }
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
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) sum[j] = Ints::load(w.start + 16 * j);
}

// What becomes of sums: `all` is any code, without limits.
enum class DepthwiseEnd { all, limits, hard_swish };

inline DepthwiseEnd end_of(const Epilogue8& e) {
  if (e.finish == Finish::hard_swish) return DepthwiseEnd::hard_swish;
  return e.low == 0 && e.high == 255 ? DepthwiseEnd::all : DepthwiseEnd::limits;
}

// The first n bytes of the results of each row.
template <DepthwiseEnd end, int rows>
[[gnu::always_inline]] inline void finish_sums(const DepthwiseWeights& w, const Requantizer& requantizer,
                                               const RowSums (&sum)[rows], uint8_t* out, int64_t next, int64_t n) {
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
    Vec v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = sum[r][j].to_float() * Vec::load(w.scale + 16 * j) + Vec::load(w.bias + 16 * j);
    const Codes codes = end == DepthwiseEnd::all ? pack(v) : requantizer.finish<end == DepthwiseEnd::hard_swish>(v);
    codes.store(out + r * next, n);
  }
}

// One call's constants. Loops take a copy of it: stores of codes might change what is reached by a reference.
struct DepthwiseLine {
  PackedDepthwise w;
  Requantizer requantizer;
  DepthwiseEnd end;
  int64_t tap;                // bytes between two taps of a filter row
  int64_t in_row, next_line;  // bytes of the input between two filter rows, and of the output between two rows

  // A kernel of `kernel` x `kernel` taps on `rows` output rows whose input rows lie in_row apart, too.
  template <typename Products, int kernel, int rows>
  [[gnu::always_inline]] void square(const DepthwiseWeights& weights, const uint8_t* in, RowSums (&sum)[rows]) const {
    constexpr int kGroups = (kernel + 3) / 4;
#pragma GCC unroll 10
    for (int y = 0; y < rows + kernel - 1; ++y) {
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g) {
        const ZippedTaps<Products> taps(in, tap, 4 * g, kernel - 1);
        for_vectors([&](auto v) {
          const auto quads = taps.template quads<v.value>();
#pragma GCC unroll 4
          for (int r = 0; r < rows; ++r) {
            const int ky = y - r;
            if (ky < 0 || ky >= kernel) continue;
            sum[r][v.value] = Products::add(sum[r][v.value], quads, weights.quads(ky * kGroups + g, v.value));
          }
        });
      }
      in += in_row;
      __asm__("" : "+r"(in));  // left alone, GCC keeps the addresses of all rows and taps for the whole line, in memory
    }
  }

  // Any kernel, one row.
  template <typename Products>
  [[gnu::always_inline]] void any(const DepthwiseWeights& weights, const uint8_t* in, RowSums (&sum)[1]) const {
    for (int64_t ky = 0, group = 0; ky < w.kernel_h; ++ky) {
      for (int64_t kx = 0; kx < w.kernel_w; kx += 4, ++group) {
        const ZippedTaps<Products> taps(in + ky * in_row, tap, kx, w.kernel_w - 1);
        for_vectors([&](auto v) {
          sum[0][v.value] =
              Products::add(sum[0][v.value], taps.template quads<v.value>(), weights.quads(group, v.value));
        });
      }
    }
  }
};

// The loops over registers of results; `kernel` 0 is any kernel.
template <typename Products, int kernel>
struct DepthwiseLoops {
  // n bytes of each of `rows` rows.
  template <int rows>
  [[gnu::always_inline]] static void step(const DepthwiseLine& line, const DepthwiseWeights& weights, const uint8_t* in,
                                          uint8_t* out, int64_t n) {
    RowSums sum[rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) start_sums(weights, sum[r]);
    if constexpr (kernel == 0) {
      line.any<Products>(weights, in, sum);
    } else {
      line.square<Products, kernel>(weights, in, sum);
    }
    if (line.end == DepthwiseEnd::all) {
      finish_sums<DepthwiseEnd::all>(weights, line.requantizer, sum, out, line.next_line, n);
    } else if (line.end == DepthwiseEnd::limits) {
      finish_sums<DepthwiseEnd::limits>(weights, line.requantizer, sum, out, line.next_line, n);
    } else {
      finish_sums<DepthwiseEnd::hard_swish>(weights, line.requantizer, sum, out, line.next_line, n);
    }
  }

  // Stride 1: `bytes` bytes of each of `rows` rows.
  template <int rows>
  [[gnu::noinline]] static void flat(DepthwiseLine line, const uint8_t* in, uint8_t* out, int64_t bytes) {
    const DepthwiseWeights first(line.w, Products::kSigned, 0);
    const int64_t taps = DepthwiseWeights::taps_of(line.w);
    DepthwiseWeights weights = first;
    for (int64_t i = 0, left = line.w.period; i < bytes; i += 64) {
      for (int64_t part = 0; part < 64 && i + part < bytes; part += Codes::width)
        step<rows>(line, weights.at(part), in + i + part, out + i + part, bytes - i - part);
      weights.taps += taps;
      weights.start += 64, weights.scale += 64, weights.bias += 64;
      if (--left == 0) weights = first, left = line.w.period;
    }
  }

  // Any stride: a row of `width` pixels that are `in_pixel` and `out_pixel` bytes apart.
  [[gnu::noinline]] static void pixels(DepthwiseLine line, const uint8_t* in, int64_t in_pixel, uint8_t* out,
                                       int64_t out_pixel, int64_t width, int64_t channels) {
    for (int64_t c = 0; c < channels; c += Codes::width) {
      const DepthwiseWeights weights = DepthwiseWeights(line.w, Products::kSigned, c / 64).at(c % 64);
      for (int64_t x = 0; x < width; ++x)
        step<1>(line, weights, in + x * in_pixel + c, out + x * out_pixel + c, channels - c);
    }
  }
};

// Finish::table, of a row that was just written: it is in the nearest caches.
inline void look_row_up(const PackedDepthwise& w, const Epilogue8& e, const Map& out, uint8_t* row, LookUpFn* look_up) {
  if (out.pixel == w.pixel) return look_up(row, (out.width - 1) * out.pixel + out.channels, e.table, row);
  for (int64_t x = 0; x < out.width; ++x, row += out.pixel) look_up(row, out.channels, e.table, row);
}

template <typename Products, int kernel>
inline void depthwise_rows(const PackedDepthwise& w, const Epilogue8& e, const Map& in, const Map& out, int64_t begin,
                           int64_t end, LookUpFn* look_up) {
  using Loops = DepthwiseLoops<Products, kernel>;
  constexpr int kRows = kernel == 0 ? 1 : Products::template kRows<kernel>;
  const DepthwiseLine line{w, Requantizer(e), end_of(e), w.dilation_w * in.pixel, w.dilation_h * in.row, out.row};
  const bool flat = w.stride_w == 1 && in.pixel == w.pixel && out.pixel == w.pixel;
  // Rows of the result share those of the input where both move by one.
  const bool shared = flat && w.stride_h == 1 && w.dilation_h == 1;
  for (int64_t r = begin; r < end;) {
    const int64_t image = r / out.height, y = r % out.height;
    const int64_t of_image = end - r < out.height - y ? end - r : out.height - y, count = shared ? of_image : 1;
    for_row_blocks<kRows>(0, count, [&](int64_t first, auto rows) {
      const int64_t top = (y + first) * w.stride_h - w.pad_top;
      const uint8_t* from = in.data + image * in.image + top * in.row - w.pad_left * in.pixel;
      uint8_t* to = out.data + image * out.image + (y + first) * out.row;
      if (flat) {
        Loops::template flat<rows.count>(line, from, to, (out.width - 1) * out.pixel + out.channels);
      } else {
        Loops::pixels(line, from, w.stride_w * in.pixel, to, out.pixel, out.width, out.channels);
      }
      if (e.finish != Finish::table) return;
      for (int64_t i = 0; i < rows.count; ++i) look_row_up(w, e, out, to + i * out.row, look_up);
    });
    r += count;
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
