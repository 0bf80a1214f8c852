// How every instruction set walks through a convolution (convolution.h): tile by tile, and within a tile in blocks of
// output pixels whose sums fit the registers. Each block gets a pointer to the input pixel of every tap and row, so
// that no copy of the input is made (indirect convolution: Dukhan 2019, arXiv 1907.02129).
//
// Kernel is one instruction set:
//   kRows[vectors]          pixels of a block at most, for tiles of 1 to 4 vectors
//   kSigned                 it multiplies q - 128
//   kMostQuads              it wants the quads of the weights of a tile (four channels, all lanes) sorted before many
//                           pixels are multiplied by them, if there are no more than this; 0: it doesn't
//   sort(w, quads, vectors, kinds)   the kind of each quad
//   run(vectors, rows, b)   one block
//   look_up(b, rows)        replaces the codes of the block by what the table has for them
#pragma once

#include <cstdint>

#include "../convolution.h"

namespace kdnative::cpu {
namespace {

constexpr int64_t kMostConvSums = 6 * 64;  // of a block
constexpr int64_t kTapsAtOnce = 64;        // at a time; more go through a block in pieces
constexpr int64_t kFewPixels = 12;         // for which weights are not sorted
// Of pixels, found at once for several blocks: the tiles of a layer share those of a map of 14 x 14 pixels, even of
// nine taps.
constexpr int64_t kPixelsAtOnce = 252, kMostPointers = 8 * kPixelsAtOnce;

struct ConvBlock {
  const Epilogue8& e;
  const ConvTile& tile;
  const float *scale, *bias;
  const int8_t* weights;
  const uint8_t* kinds;  // of the quads of weights; nullptr: they were not sorted
  const int8_t* coming;  // what will be read behind these weights: in each step of four channels, `coming_step` bytes
  int64_t coming_step;   // of it may be asked for
  int64_t taps;
  const uint8_t* const* pixel;  // of row i and tap t at pixel[t * tap_step + i]; where the channels of the tile begin
  int64_t tap_step;
  const int32_t* start;  // of row i at start + i * start_step
  int64_t start_step;
  int32_t* sums;        // [row][16 * vectors]: where they go instead of to the result; or nullptr
  uint8_t* const* out;  // where pixels begin: the channels of the tile are `first` further on
  const uint8_t* const* residual;
};

inline uint8_t* pixel_of(const Map& map, int64_t image, int64_t y, int64_t x) {
  return map.data + image * map.image + y * map.row + x * map.pixel;
}

template <typename Byte>
inline void put_pointers(Byte* first, int64_t step, int64_t count, Byte** pointer) {
  for (int64_t i = 0; i < count; ++i) pointer[i] = first + i * step;
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

  // pixel[t * tap_step + i] = what tap `first` + t of the output pixel i further on in this line reads, i < pixels.
  void find(int64_t channel, const uint8_t* zeros, int64_t first, int64_t count, int64_t pixels, int64_t tap_step,
            const uint8_t** pixel) const {
    int64_t ky = 0, kx = 0;
    if (first != 0) ky = first / grid.width, kx = first % grid.width;
    const bool inside = lines_inside && x >= grid.x_begin && x + pixels <= grid.x_end;
    const int64_t step = w.stride_w * in.pixel;
    const uint8_t* at = in_line + x * step + channel;
    for (int64_t t = 0; t < count; ++t, pixel += tap_step) {
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

// What several blocks read and write.
struct ConvPointers {
  const uint8_t* pixel[kMostPointers];  // [tap][pixels]
  uint8_t* out[kPixelsAtOnce];
  const uint8_t* residual[kPixelsAtOnce];

  // Of `pixels` output pixels from the cursor on, which goes behind them, and of taps [first, first + taps).
  void find(ConvCursor& cursor, int64_t channel, const uint8_t* zeros, int64_t first, int64_t taps, int64_t pixels) {
    const Map &map = cursor.out, *more = cursor.residual;
    for (int64_t i = 0; i < pixels;) {  // line by line
      const int64_t left = map.width - cursor.x, some = pixels - i < left ? pixels - i : left;
      cursor.find(channel, zeros, first, taps, some, pixels, pixel + i);
      put_pointers(cursor.out_line + cursor.x * map.pixel, map.pixel, some, out + i);
      if (more != nullptr) {
        put_pointers(cursor.residual_line + cursor.x * more->pixel, more->pixel, some, residual + i);
      }
      cursor.advance(some);
      i += some;
    }
  }
};

template <typename Kernel>
void convolve(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out, float* real,
              int64_t ld_real, const ConvRange& r) {
  const TapGrid grid(w, in, out);
  const int64_t pixels = r.end - r.begin, taps = grid.height * grid.width;
  if (pixels <= 0) return;
  alignas(64) int32_t sums[kMostConvSums];
  uint8_t kinds[Kernel::kMostQuads + 1];
  ConvPointers pointers;
  ConvCursor cursor(w, in, out, e.residual, grid, r.begin);
  const ConvPosition begin = cursor;
  const int64_t pixels_at_once = kMostPointers / taps < kPixelsAtOnce ? kMostPointers / taps : kPixelsAtOnce;
  int64_t found = -1;  // the pointers are those of all pixels, for input channels from this one on
  for (int64_t t = r.tile_begin; t < r.tile_end; ++t) {
    const ConvTile& tile = w.tiles[t];
    // Nearly the same number of rows in all blocks.
    const int64_t most = Kernel::kRows[tile.vectors], blocks = (pixels + most - 1) / most;
    const int64_t shorter = pixels / blocks, longer = pixels % blocks;
    const int64_t at_once = taps > kTapsAtOnce ? 1 : pixels_at_once / most;  // blocks
    const int64_t quads = taps * tile.depth / 4;
    // The weights of the next tile, or of the next convolution, lie behind these: they arrive while these are used.
    const int64_t bytes = quads * 64 * tile.vectors, steps = blocks * quads;
    const int64_t coming_step = blocks == 1 ? 0 : (bytes + steps - 1) / steps;
    const int8_t* coming = w.weights + tile.weights + bytes;
    const bool sorted = quads <= Kernel::kMostQuads && pixels > kFewPixels;
    if (sorted) Kernel::sort(w.weights + tile.weights, quads, tile.vectors, kinds);
    const bool all_found = found == tile.channel && blocks <= at_once && taps <= kTapsAtOnce;
    if (!all_found) cursor.go_to(begin);
    for (int64_t first = 0, p = r.begin; first < blocks; first += at_once) {
      const int64_t end = first + at_once < blocks ? first + at_once : blocks;
      const int64_t long_ones = end < longer ? end - first : first < longer ? longer - first : 0;
      const int64_t count = (end - first) * shorter + long_ones;
      const ConvPosition of_piece = cursor;
      for (int64_t tap = 0; tap < taps; tap += kTapsAtOnce) {
        const int64_t some = taps - tap < kTapsAtOnce ? taps - tap : kTapsAtOnce;
        const bool last = tap + some == taps;
        if (tap != 0) cursor.go_to(of_piece);
        if (!all_found) pointers.find(cursor, tile.channel, zeros, tap, some, count);
        ConvBlock b{.e = e,
                    .tile = tile,
                    .scale = w.scale + tile.lane,
                    .bias = w.bias + tile.lane,
                    .weights = w.weights + tile.weights + tap * tile.depth * 16 * tile.vectors,
                    .kinds = sorted ? kinds + tap * tile.depth / 4 : nullptr,
                    .coming = coming,
                    .coming_step = coming_step,
                    .taps = some,
                    .pixel = pointers.pixel,
                    .tap_step = count,
                    .start = tap == 0 ? (Kernel::kSigned ? w.start_signed : w.start) + tile.lane : sums,
                    .start_step = tap == 0 ? 0 : 16 * tile.vectors,
                    .sums = last && e.finish != Finish::real ? nullptr : sums,
                    .out = pointers.out,
                    .residual = pointers.residual};
        for (int64_t i = first; i < end; ++i) {
          const int64_t rows = shorter + (i < longer ? 1 : 0);
          Kernel::run(tile.vectors, rows, b);
          if (e.finish == Finish::table && last) Kernel::look_up(b, rows);
          if (e.finish == Finish::real && last) {
            write_real(b, rows, real + p * ld_real + tile.first, ld_real);
            p += rows;
          }
          b.pixel += rows, b.out += rows, b.residual += rows;
          b.coming += some * tile.depth / 4 * coming_step;
        }
        coming = b.coming;
      }
    }
    found = blocks <= at_once && taps <= kTapsAtOnce ? tile.channel : -1;
  }
}

}  // namespace
}  // namespace kdnative::cpu
