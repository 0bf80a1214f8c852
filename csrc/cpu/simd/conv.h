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

// first, first + step, ...: a handful of pointers, which would take longer in vectors.
template <typename Byte>
inline void put_pointers(Byte* first, int64_t step, int64_t count, Byte** pointer) {
  for (; count > 0; --count, first += step) {
    __asm__("" : "+r"(first));
    *pointer++ = first;
  }
}

// The taps of a filter as a grid, of which whole rows are one column; and which output pixels of a line have all of
// them inside of the map.
struct TapGrid {
  int64_t height, width, step_y, step_x, row, column;  // steps in pixels, and in bytes
  int64_t x_begin, x_end;

  TapGrid(const PackedConv& w, const Map& in, const Map& out)
      : height(w.kernel_h),
        width(w.whole_rows ? 1 : w.kernel_w),
        step_y(w.dilation_h),
        step_x(w.dilation_w),
        row(w.dilation_h * in.row),
        column(w.dilation_w * in.pixel),
        x_begin((w.pad_left + w.stride_w - 1) / w.stride_w) {
    const int64_t last = in.width - 1 - (width - 1) * step_x + w.pad_left;  // for the first tap
    x_end = last < 0 ? 0 : last / w.stride_w + 1;
    if (w.whole_rows) x_begin = 0, x_end = out.width;  // for which there is a border
  }
};

struct ConvPosition {
  int64_t image, y, x;
};

// Walks over the output pixels of a convolution, line by line.
struct ConvCursor : ConvPosition {
  const PackedConv& w;
  const Map &in, &out;
  const Map* residual;
  const TapGrid& grid;
  int64_t in_y;
  bool lines_inside;  // of the input, which the taps read
  const uint8_t* in_line;
  uint8_t* out_line;
  const uint8_t* residual_line = nullptr;

  ConvCursor(const PackedConv& w, const Map& in, const Map& out, const Map* residual, const TapGrid& grid,
             int64_t index)
      : ConvPosition{index / out.width / out.height, index / out.width % out.height, index % out.width},
        w(w),
        in(in),
        out(out),
        residual(residual),
        grid(grid) {
    place();
  }

  void go_to(const ConvPosition& position) {
    static_cast<ConvPosition&>(*this) = position;
    place();
  }

  void place() {
    in_y = y * w.stride_h - w.pad_top;
    lines_inside = w.whole_rows || (in_y >= 0 && in_y + (grid.height - 1) * grid.step_y < in.height);
    in_line = pixel_of(in, image, in_y, -w.pad_left);
    out_line = pixel_of(out, image, y, 0);
    if (residual != nullptr) residual_line = pixel_of(*residual, image, y, 0);
  }

  void advance(int64_t pixels) {  // not beyond the end of the line
    x += pixels;
    if (x < out.width) return;
    x = 0;
    if (++y == out.height) y = 0, ++image;
    place();
  }

  // pixel[t * rows + i] = what tap `first` + t of the output pixel i further on in this line reads, i < pixels.
  void find(const ConvTile& tile, const uint8_t* zeros, int64_t first, int64_t count, int64_t pixels, int64_t rows,
            const uint8_t** pixel) const {
    int64_t ky = 0, kx = 0;
    if (first != 0) ky = first / grid.width, kx = first % grid.width;
    const bool inside = lines_inside && x >= grid.x_begin && x + pixels <= grid.x_end;
    const int64_t step = w.stride_w * in.pixel;
    const uint8_t* at = in_line + x * step + tile.channel;
    for (int64_t t = 0; t < count; ++t, pixel += rows) {
      if (inside) {
        put_pointers(at + ky * grid.row + kx * grid.column, step, pixels, pixel);
      } else {
        find_tap(at, zeros, ky, kx, pixels, pixel);
      }
      if (++kx == grid.width) kx = 0, ++ky;
    }
  }

  void find_tap(const uint8_t* at, const uint8_t* zeros, int64_t ky, int64_t kx, int64_t pixels,
                const uint8_t** pixel) const {
    const int64_t tap_y = in_y + ky * grid.step_y;
    const bool line_inside = tap_y >= 0 && tap_y < in.height;
    int64_t tap_x = x * w.stride_w - w.pad_left + kx * grid.step_x;
    at += ky * grid.row + kx * grid.column;
    for (int64_t i = 0; i < pixels; ++i, tap_x += w.stride_w, at += w.stride_w * in.pixel)
      pixel[i] = line_inside && tap_x >= 0 && tap_x < in.width ? at : zeros;
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
void convolve(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out, float* real,
              int64_t ld_real, const ConvRange& r) {
  alignas(64) int32_t sums[kMostConvSums];
  const TapGrid grid(w, in, out);
  const int64_t pixels = r.end - r.begin, taps = grid.height * grid.width;
  if (pixels <= 0) return;
  for (int64_t t = r.tile_begin; t < r.tile_end; ++t) {
    const ConvTile& tile = w.tiles[t];
    ConvBlock b(w, e, tile);
    ConvCursor cursor(w, in, out, e.residual, grid, r.begin);
    // Nearly the same number of rows in all blocks.
    const int64_t most = Kernel::kRows[tile.vectors], blocks = (pixels + most - 1) / most, longer = pixels % blocks;
    for (int64_t i = 0, p = r.begin; i < blocks; ++i) {
      const int64_t rows = pixels / blocks + (i < longer ? 1 : 0);
      const ConvPosition begin = cursor;
      for (int64_t tap = 0; tap < taps; tap += kMostTaps) {
        if (tap != 0) cursor.go_to(begin);
        b.taps = taps - tap < kMostTaps ? taps - tap : kMostTaps;
        for (int64_t row = 0; row < rows;) {
          const int64_t left = out.width - cursor.x, some = rows - row < left ? rows - row : left;
          cursor.find(tile, zeros, tap, b.taps, some, rows, b.pixel + row);
          put_pointers(cursor.out_line + cursor.x * out.pixel + tile.first, out.pixel, some, b.out + row);
          if (e.residual != nullptr) {
            const uint8_t* residual = cursor.residual_line + cursor.x * e.residual->pixel + tile.first;
            put_pointers(residual, e.residual->pixel, some, b.residual + row);
          }
          cursor.advance(some);
          row += some;
        }
        b.weights = w.weights + tile.weights + tap * tile.depth * 16 * tile.vectors;
        b.start = tap == 0 ? (Kernel::kSigned ? w.start_signed : w.start) + tile.lane : sums;
        b.start_step = tap == 0 ? 0 : 16 * tile.vectors;
        b.sums = tap + b.taps == taps && e.finish != Finish::real ? nullptr : sums;
        Kernel::run(tile.vectors, rows, b);
      }
      if (e.finish == Finish::real) write_real(b, rows, real + p * ld_real + tile.first, ld_real);
      if (e.finish == Finish::table) Kernel::look_up(b, rows);
      p += rows;
    }
  }
}

}  // namespace
}  // namespace kdnative::cpu
