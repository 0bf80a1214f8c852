// How every instruction set walks through a convolution (convolution.h): tile by tile, and within a tile in blocks of
// output pixels whose sums fit the registers. Each block gets a pointer to the input pixel of every tap and row, so
// that no copy of the input is made (indirect convolution: Dukhan 2019, arXiv 1907.02129).
//
// Kernel is one instruction set:
//   kRows[vectors]          pixels of a block at most, for tiles of 1 to 4 vectors
//   kSigned                 it multiplies q - 128
//   run(vectors, rows, b)   one block
//   look_up(b, rows)        replaces the codes of the block by what the table has for them
#pragma once

#include <cstdint>

#include "../convolution.h"

namespace kdnative::cpu {
namespace {

constexpr int kMostConvRows = 14, kMostConvSums = 6 * 64;  // of a block
constexpr int kMostTaps = 64;                              // at a time; more go through a block in pieces

struct ConvBlock {
  const Epilogue8& e;
  const ConvTile& tile;
  const float *scale, *bias;
  const int8_t* weights;
  int64_t taps;
  const int32_t* start;  // of row i at start + i * start_step
  int64_t start_step;
  int32_t* sums;  // [row][16 * vectors]: where they go instead of to the result; or nullptr
  const uint8_t* pixel[kMostTaps * kMostConvRows];  // [tap][row]
  uint8_t* out[kMostConvRows];
  const uint8_t* residual[kMostConvRows];

  ConvBlock(const PackedConv& w, const Epilogue8& e, const ConvTile& tile)
      : e(e), tile(tile), scale(w.scale + tile.lane), bias(w.bias + tile.lane) {}
};

inline uint8_t* pixel_of(const Map& map, int64_t image, int64_t y, int64_t x) {
  return map.data + image * map.image + y * map.row + x * map.pixel;
}

// Where an output pixel and its first tap lie.
struct ConvPixel {
  int64_t image, y, x, in_y, in_x;

  ConvPixel(const PackedConv& w, const Map& out, int64_t index) {
    x = index % out.width;
    y = index / out.width % out.height;
    image = index / out.width / out.height;
    place(w);
  }
  void advance(const PackedConv& w, const Map& out, int64_t pixels) {  // not beyond the end of the line
    x += pixels;
    in_x += pixels * w.stride_w;
    if (x < out.width) return;
    x = 0;
    if (++y == out.height) y = 0, ++image;
    place(w);
  }
  void place(const PackedConv& w) {
    in_y = y * w.stride_h - w.pad_top;
    in_x = x * w.stride_w - w.pad_left;
  }
};

template <typename Byte>
inline void put_pixels(Byte* first, int64_t step, int64_t count, Byte** pixel) {
  for (int64_t i = 0; i < count; ++i) pixel[i] = first + i * step;
}

// Some taps of a filter, from one on. The taps are a grid; whole rows are a column of it.
struct Taps {
  int64_t channel;                                     // of the input, where a tap begins
  int64_t height, width, step_y, step_x, row, column;  // of the grid; steps in pixels, and in bytes
  int64_t first_y = 0, first_x = 0, count = 0;

  Taps(const PackedConv& w, const Map& in, int64_t channel)
      : channel(channel),
        height(w.kernel_h),
        width(w.whole_rows ? 1 : w.kernel_w),
        step_y(w.dilation_h),
        step_x(w.dilation_w),
        row(w.dilation_h * in.row),
        column(w.dilation_w * in.pixel) {}

  void from(int64_t first, int64_t taps) {
    first_y = first / width;
    first_x = first % width;
    count = taps;
  }

  // Of `pixels` output pixels in a line, whose first taps are `step` pixels apart, whether all taps lie in the map.
  bool inside(const ConvPixel& p, const Map& in, int64_t step, int64_t pixels) const {
    return p.in_y >= 0 && p.in_y + (height - 1) * step_y < in.height && p.in_x >= 0 &&
           p.in_x + (pixels - 1) * step + (width - 1) * step_x < in.width;
  }

  template <typename F>
  void for_each(const F& f) const {  // f(number, row and column of the grid)
    int64_t y = first_y, x = first_x;
    for (int64_t t = 0; t < count; ++t) {
      f(t, y, x);
      if (++x == width) x = 0, ++y;
    }
  }

  // pixel[t * rows + i] = the pixel that tap t of output pixel i reads.
  void find(const ConvPixel& p, const Map& in, int64_t step, int64_t pixels, int64_t rows,
            const uint8_t** pixel) const {
    const uint8_t* first = pixel_of(in, p.image, p.in_y, p.in_x) + channel;
    for_each([&](int64_t t, int64_t y, int64_t x) {
      put_pixels(first + y * row + x * column, step * in.pixel, pixels, pixel + t * rows);
    });
  }

  void find_across_edges(const ConvPixel& p, const Map& in, const uint8_t* zeros, int64_t step, int64_t pixels,
                         int64_t rows, const uint8_t** pixel) const {
    for_each([&](int64_t t, int64_t ky, int64_t kx) {
      const int64_t y = p.in_y + ky * step_y;
      for (int64_t i = 0; i < pixels; ++i) {
        const int64_t x = p.in_x + i * step + kx * step_x;
        const bool in_map = y >= 0 && y < in.height && x >= 0 && x < in.width;
        pixel[t * rows + i] = in_map ? pixel_of(in, p.image, y, x) + channel : zeros;
      }
    });
  }
};

// Finish::real, from sums in memory.
inline void write_real(const ConvBlock& b, int64_t rows, float* real, int64_t ld_real) {
  const int64_t lanes = 16 * b.tile.vectors;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t l = lane % 16, channel = lanes == 64 ? 16 * (l / 4) + 4 * (lane / 16) + l % 4 : lane;
      if (channel >= b.tile.outputs) continue;
      real[i * ld_real + channel] = static_cast<float>(b.sums[i * lanes + lane]) * b.scale[lane] + b.bias[lane];
    }
  }
}

template <typename Kernel>
inline void conv_tile(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out,
                      float* real, int64_t ld_real, const ConvRange& r, const ConvTile& tile) {
  alignas(64) int32_t sums[kMostConvSums];
  ConvBlock b(w, e, tile);
  Taps taps(w, in, tile.channel);
  const int64_t all = taps.height * taps.width, lanes = 16 * tile.vectors, most = Kernel::kRows[tile.vectors];
  ConvPixel next(w, out, r.begin);
  for (int64_t p = r.begin, blocks = (r.end - r.begin + most - 1) / most; p < r.end; --blocks) {
    const int64_t rows = blocks == 1 ? r.end - p : (r.end - p + blocks - 1) / blocks;  // nearly the same in all blocks
    const ConvPixel begin = next;
    b.start = (Kernel::kSigned ? w.start_signed : w.start) + tile.lane;
    b.start_step = 0;
    for (int64_t tap = 0; tap < all; tap += kMostTaps) {
      taps.from(tap, all - tap < kMostTaps ? all - tap : kMostTaps);
      b.taps = taps.count;
      b.weights = w.weights + tile.weights + tap * tile.depth * lanes;
      b.sums = tap + b.taps == all && e.finish != Finish::real ? nullptr : sums;
      next = begin;
      for (int64_t i = 0; i < rows;) {  // line by line
        const int64_t left = out.width - next.x, pixels = rows - i < left ? rows - i : left;
        if (w.whole_rows || taps.inside(next, in, w.stride_w, pixels)) {
          taps.find(next, in, w.stride_w, pixels, rows, b.pixel + i);
        } else {
          taps.find_across_edges(next, in, zeros, w.stride_w, pixels, rows, b.pixel + i);
        }
        put_pixels(pixel_of(out, next.image, next.y, next.x) + tile.first, out.pixel, pixels, b.out + i);
        if (e.residual != nullptr) {
          const uint8_t* first = pixel_of(*e.residual, next.image, next.y, next.x) + tile.first;
          put_pixels(first, e.residual->pixel, pixels, b.residual + i);
        }
        next.advance(w, out, pixels);
        i += pixels;
      }
      Kernel::run(tile.vectors, rows, b);
      b.start = sums;
      b.start_step = lanes;
    }
    if (e.finish == Finish::real) write_real(b, rows, real + p * ld_real + tile.first, ld_real);
    if (e.finish == Finish::table) Kernel::look_up(b, rows);
    p += rows;
  }
}

template <typename Kernel>
void convolve(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out, float* real,
              int64_t ld_real, const ConvRange& r) {
  for (int64_t t = r.tile_begin; t < r.tile_end; ++t)
    conv_tile<Kernel>(w, e, in, zeros, out, real, ld_real, r, w.tiles[t]);
}

}  // namespace
}  // namespace kdnative::cpu
