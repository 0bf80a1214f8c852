#include "../instruction_sets.h"
#include "requantize.h"

namespace kdnative::cpu::reference {
namespace {

// Output channel of a lane of a tile, counted from the first one of the tile.
int64_t channel_of_lane(const ConvTile& tile, int64_t lane) {
  if (tile.vectors != 4) return lane;
  const int64_t vector = lane / 16, l = lane % 16;
  return 16 * (l / 4) + 4 * vector + l % 4;
}

// The pixel that a tap reads: where its bytes begin. (y, x) is the output pixel.
const uint8_t* tap_pixel(const PackedConv& w, const Map& in, const uint8_t* zeros, const ConvTile& tile, int64_t image,
                         int64_t y, int64_t x, int64_t tap) {
  const int64_t ky = w.whole_rows ? tap : tap / w.kernel_w, kx = w.whole_rows ? 0 : tap % w.kernel_w;
  const int64_t iy = y * w.stride_h - w.pad_top + ky * w.dilation_h;
  const int64_t ix = x * w.stride_w - w.pad_left + kx * w.dilation_w;
  const bool inside = iy >= 0 && iy < in.height && ix >= 0 && ix < in.width;
  return inside || w.whole_rows ? pixel_at(in, image, iy, ix) + tile.channel : zeros;
}

}  // namespace

void conv(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out, float* real,
          int64_t ld_real, const ConvRange& r) {
  const int64_t taps = w.whole_rows ? w.kernel_h : w.kernel_h * w.kernel_w;
  for (int64_t p = r.begin; p < r.end; ++p) {
    const int64_t x = p % out.width, y = p / out.width % out.height, image = p / out.width / out.height;
    for (int64_t t = r.tile_begin; t < r.tile_end; ++t) {
      const ConvTile& tile = w.tiles[t];
      for (int64_t lane = 0; lane < 16 * tile.vectors; ++lane) {
        const int64_t n = tile.first + channel_of_lane(tile, lane);
        if (n - tile.first >= tile.outputs) continue;
        auto acc = static_cast<uint32_t>(w.start[tile.lane + lane]);  // of damaged weights it may overflow
        for (int64_t tap = 0; tap < taps; ++tap) {
          const uint8_t* q = tap_pixel(w, in, zeros, tile, image, y, x, tap);
          for (int64_t k = 0; k < tile.depth; ++k)
            acc += static_cast<uint32_t>(
                q[k] * w.weights[tile.weights + ((tap * tile.depth + k) / 4 * 16 * tile.vectors + lane) * 4 + k % 4]);
        }
        float v = static_cast<float>(static_cast<int32_t>(acc)) * w.scale[tile.lane + lane] + w.bias[tile.lane + lane];
        if (e.finish == Finish::real) {
          real[p * ld_real + n] = v;
          continue;
        }
        if (e.residual != nullptr) v = v + static_cast<float>(pixel_at(*e.residual, image, y, x)[n]) * e.residual_scale;
        pixel_at(out, image, y, x)[n] = finish_code(e, v);
      }
    }
  }
}

void depthwise(const PackedDepthwise& w, const Epilogue8& e, const Map& in, const Map& out, int64_t begin,
               int64_t end) {
  const int64_t groups = (w.kernel_w + 3) / 4;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t y = row % out.height, image = row / out.height;
    for (int64_t x = 0; x < out.width; ++x) {
      for (int64_t c = 0; c < out.channels; ++c) {
        // Byte 16 * l + 4 * v + e of vector p.
        const int64_t p = c / 64, lane = 16 * (c % 16 / 4) + 4 * (c % 64 / 16) + c % 4;
        auto acc = static_cast<uint32_t>(w.start[p * 64 + lane]);
        for (int64_t ky = 0; ky < w.kernel_h; ++ky) {
          const int8_t* taps = w.weights + (p * w.kernel_h + ky) * groups * 256 + 4 * lane;
          for (int64_t kx = 0; kx < w.kernel_w; ++kx) {
            const int64_t iy = y * w.stride_h - w.pad_top + ky * w.dilation_h;
            const int64_t ix = x * w.stride_w - w.pad_left + kx * w.dilation_w;
            acc += static_cast<uint32_t>(pixel_at(in, image, iy, ix)[c] * taps[kx / 4 * 256 + kx % 4]);
          }
        }
        const float v = static_cast<float>(static_cast<int32_t>(acc)) * w.scale[p * 64 + lane] + w.bias[p * 64 + lane];
        pixel_at(out, image, y, x)[c] = finish_code(e, v);
      }
    }
  }
}

}  // namespace kdnative::cpu::reference
