// Pooling, sums and products of maps of codes over Codes: the numerics are those of convolution.h.
#include "vec.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "zips.h"
// This is written against Codes and comes after them.
#include "requantize.h"

namespace kdnative::cpu::KDNATIVE_ISA {
namespace {

// f(first byte, bytes) over n bytes in registers, the last one in part.
template <typename F>
inline void for_registers(int64_t n, const F& f) {
  for (int64_t i = 0; i < n; i += Codes::width) f(i, n - i < Codes::width ? n - i : Codes::width);
}

// Sums of the codes of a window, four vectors for a register of channels. Words hold the sums of 257 codes.
inline void add_window(const uint8_t* first, const Map& in, int64_t height, int64_t width, Ints (&sum)[4]) {
  constexpr int64_t kPixels = 256;
  const Codes zero = Codes::set1(0);
  for (Ints& s : sum) s = Ints::zero();
  Codes low = zero, high = zero;
  int64_t pixels = 0;
  const auto flush = [&] {
    sum[0] = sum[0] + bits(zip_pairs_low(low, zero));
    sum[1] = sum[1] + bits(zip_pairs_high(low, zero));
    sum[2] = sum[2] + bits(zip_pairs_low(high, zero));
    sum[3] = sum[3] + bits(zip_pairs_high(high, zero));
    low = high = zero;
    pixels = 0;
  };
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* row = first + y * in.row;
    for (int64_t x = 0; x < width;) {
      const int64_t room = kPixels - pixels, end = width - x < room ? width : x + room;
      pixels += end - x;
      for (; x < end; ++x) {
        const Codes codes = Codes::load(row + x * in.pixel);
        low = add_words(low, zip_low(codes, zero));
        high = add_words(high, zip_high(codes, zero));
      }
      if (pixels == kPixels) flush();
    }
  }
  flush();
}

inline const uint8_t* first_pixel(const Map& in, const Window& w) {
  return in.data + w.image * in.image + w.y0 * in.row + w.x0 * in.pixel;
}

}  // namespace

void max_window(const Map& in, const Window& w, uint8_t* out) {
  for_registers(in.channels, [&](int64_t c, int64_t n) {
    const uint8_t* row = first_pixel(in, w) + c;
    Codes largest = Codes::set1(0);
    for (int64_t y = w.y0; y < w.y1; ++y, row += in.row)
      for (int64_t x = 0; x < w.x1 - w.x0; ++x) largest = max(largest, Codes::load(row + x * in.pixel));
    largest.store(out + c, n);
  });
}

void average_window(const Map& in, const Window& w, int32_t zero, float scale, float out_zero, uint8_t* out) {
  const int64_t height = w.y1 - w.y0, width = w.x1 - w.x0;
  const Ints start = Ints::set1(static_cast<int32_t>(-height * width * zero));
  for_registers(in.channels, [&](int64_t c, int64_t n) {
    Ints sum[4];
    add_window(first_pixel(in, w) + c, in, height, width, sum);
    Vec v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = (sum[j] + start).to_float() * Vec::set1(scale) + Vec::set1(out_zero);
    pack(v).store(out + c, n);
  });
}

void add_codes(const uint8_t* a, const uint8_t* b, int64_t n, float scale_a, float offset, float scale_b,
               const Epilogue8& e, uint8_t* out) {
  const Requantizer last(e);
  const auto add = [&](Codes x, Codes y) {
    Vec v[4], other[4];
    unpack(x, v);
    unpack(y, other);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) v[j] = (v[j] * Vec::set1(scale_a) + Vec::set1(offset)) + other[j] * Vec::set1(scale_b);
    return e.finish == Finish::hard_swish ? last.finish<true>(v) : last.finish<false>(v);
  };
  constexpr int64_t kBlock = 4096;  // results wait in the nearest cache for their table
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t end = n - i < kBlock ? n : i + kBlock;
    for_registers(end - i, [&](int64_t j, int64_t left) {
      j += i;
      if (left == Codes::width) {
        add(Codes::load(a + j), Codes::load(b + j)).store(out + j);
      } else {
        add(Codes::load(a + j, left), Codes::load(b + j, left)).store(out + j, left);
      }
    });
    if (e.finish == Finish::table) look_up(out + i, end - i, e.table, out + i);
  }
}

void multiply_codes(const uint8_t* x, int64_t pixel, const uint8_t* gate, int64_t pixels, int64_t channels,
                    int32_t zero, int32_t gate_zero, float scale, float out_zero, uint8_t* out, int64_t out_pixel) {
  const Codes zeros = Codes::set1(zero);
  const Vec factor = Vec::set1(scale), offset = Vec::set1(out_zero);
  // n bytes that are `step` and `out_step` bytes apart, `count` times. (x - zero) * (gate - gate_zero) is one product
  // of pairs: (x, zero) and (g, -g).
  const auto multiply = [&](const uint8_t* from, int64_t step, Codes gates, int64_t count, int64_t n, uint8_t* to,
                            int64_t out_step) {
    const Codes none = Codes::set1(0);
    Vec wide[4];
    unpack(gates, wide);
    Codes pair[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Ints g = nearest(wide[j]) - Ints::set1(gate_zero);
      pair[j] = bytes((g & Ints::set1(0xffff)) + shift_left<16>(Ints::zero() - g));
    }
    for (int64_t i = 0; i < count; ++i) {
      const Codes codes = n >= Codes::width ? Codes::load(from + i * step) : Codes::load(from + i * step, n);
      const Codes low = zip_low(codes, zeros), high = zip_high(codes, zeros);
      const Ints product[4] = {pair_products(zip_low(low, none), pair[0]), pair_products(zip_high(low, none), pair[1]),
                               pair_products(zip_low(high, none), pair[2]),
                               pair_products(zip_high(high, none), pair[3])};
      Vec v[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) v[j] = product[j].to_float() * factor + offset;
      pack(v).store(to + i * out_step, n);
    }
  };
  if (pixel == channels && out_pixel == channels && Codes::width % channels == 0) {  // whole pixels fill a register
    uint8_t gates[Codes::width];
    for (int64_t i = 0; i < Codes::width; ++i) gates[i] = gate[i % channels];
    const int64_t bytes = pixels * channels, whole = bytes / Codes::width, rest = bytes % Codes::width;
    const int64_t done = whole * Codes::width;
    multiply(x, Codes::width, Codes::load(gates), whole, Codes::width, out, Codes::width);
    if (rest > 0) multiply(x + done, 0, Codes::load(gates), 1, rest, out + done, 0);
    return;
  }
  for_registers(channels, [&](int64_t c, int64_t n) {
    multiply(x + c, pixel, Codes::load(gate + c, n), pixels, n, out + c, out_pixel);
  });
}

}  // namespace kdnative::cpu::KDNATIVE_ISA
