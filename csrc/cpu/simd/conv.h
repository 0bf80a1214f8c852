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

constexpr int kMostConvRows = 14, kMostTaps = 64;  // of a block; more taps go through it in pieces

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

// An output pixel, and where its first tap lies in the input.
struct ConvPixel {
  int64_t image, y, x, in_y, in_x;
  const uint8_t* in;

  ConvPixel(const PackedConv& w, const Map& input, const Map& output, int64_t index) {
    x = index % output.width;
    y = index / output.width % output.height;
    image = index / output.width / output.height;
    place(w, input);
  }
  void advance(const PackedConv& w, const Map& input, const Map& output) {
    if (++x < output.width) {
      in_x += w.stride_w;
      in += w.stride_w * input.pixel;
      return;
    }
    x = 0;
    if (++y == output.height) y = 0, ++image;
    place(w, input);
  }
  void place(const PackedConv& w, const Map& input) {
    in_y = y * w.stride_h - w.pad_top;
    in_x = x * w.stride_w - w.pad_left;
    in = pixel_of(input, image, in_y, in_x);
  }
};

// The taps of a filter as a grid; whole rows are a column of it.
struct TapGrid {
  int64_t height, width, step_y, step_x, row, column;  // steps in pixels, and in bytes

  TapGrid(const PackedConv& w, const Map& in)
      : height(w.kernel_h),
        width(w.whole_rows ? 1 : w.kernel_w),
        step_y(w.dilation_h),
        step_x(w.dilation_w),
        row(w.dilation_h * in.row),
        column(w.dilation_w * in.pixel) {}

  // pixel[0], pixel[step], ... = the pixels of `count` taps from tap `first` on, of an output pixel whose taps all lie
  // inside of the input.
  void inside(const uint8_t* in, int64_t first, int64_t count, int64_t step, const uint8_t** pixel) const {
    int64_t kx = first % width;
    const uint8_t* line = in + first / width * row;
    for (int64_t t = 0; t < count; ++t, pixel += step) {
      *pixel = line + kx * column;
      if (++kx == width) kx = 0, line += row;
    }
  }

  void across_edges(const ConvPixel& p, const Map& in, int64_t channel, const uint8_t* zeros, int64_t first,
                    int64_t count, int64_t step, const uint8_t** pixel) const {
    int64_t kx = first % width, ky = first / width;
    for (int64_t t = 0; t < count; ++t, pixel += step) {
      const int64_t y = p.in_y + ky * step_y, x = p.in_x + kx * step_x;
      const bool in_map = y >= 0 && y < in.height && x >= 0 && x < in.width;
      *pixel = in_map ? p.in + channel + ky * row + kx * column : zeros;
      if (++kx == width) kx = 0, ++ky;
    }
  }

  bool within(const ConvPixel& p, const Map& in) const {
    return p.in_y >= 0 && p.in_y + (height - 1) * step_y < in.height && p.in_x >= 0 &&
           p.in_x + (width - 1) * step_x < in.width;
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
  constexpr int kMostSums = 64 * 6;
  alignas(64) int32_t sums[kMostSums];
  ConvBlock b(w, e, tile);
  const TapGrid grid(w, in);
  const int64_t taps = grid.height * grid.width, lanes = 16 * tile.vectors, most = Kernel::kRows[tile.vectors];
  ConvPixel at(w, in, out, r.begin);
  for (int64_t p = r.begin, blocks = (r.end - r.begin + most - 1) / most; p < r.end; --blocks) {
    const int64_t rows = (r.end - p + blocks - 1) / blocks;  // nearly the same in all blocks
    const ConvPixel first = at;
    b.start = (Kernel::kSigned ? w.start_signed : w.start) + tile.lane;
    b.start_step = 0;
    for (int64_t tap = 0; tap < taps; tap += kMostTaps) {
      b.taps = taps - tap < kMostTaps ? taps - tap : kMostTaps;
      b.weights = w.weights + tile.weights + tap * tile.depth * lanes;
      const bool last = tap + b.taps == taps;
      b.sums = last && e.finish != Finish::real ? nullptr : sums;
      at = first;
      for (int64_t i = 0; i < rows; ++i) {
        if (w.whole_rows || grid.within(at, in)) {
          grid.inside(at.in + tile.channel, tap, b.taps, rows, b.pixel + i);
        } else {
          grid.across_edges(at, in, tile.channel, zeros, tap, b.taps, rows, b.pixel + i);
        }
        if (b.sums == nullptr) {
          b.out[i] = pixel_of(out, at.image, at.y, at.x) + tile.first;
          if (e.residual != nullptr) b.residual[i] = pixel_of(*e.residual, at.image, at.y, at.x) + tile.first;
        }
        at.advance(w, in, out);
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
