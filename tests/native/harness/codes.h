// What the checks of networks of convolutions share: maps in memory, and the rules of csrc/cpu/convolution.h for
// values.
#pragma once

#include "common.h"

namespace harness {

// A map inside of a buffer that begins and ends with bytes that nothing may write. `before` and `after` bytes lie
// around the channels of every pixel: those of the other maps of a concatenation.
struct MapBuffer {
  static constexpr uint8_t kOutside = 165;

  MapBuffer(int64_t images, int64_t height, int64_t width, int64_t channels, int64_t border, int64_t before = 0,
            int64_t after = 0)
      : bytes(size_of(images, height, width, channels, border, before, after)) {
    const int64_t pixel = round_up(before + channels + after, 4), row = (width + 2 * border) * pixel;
    const int64_t image = (height + 2 * border) * row;
    map = {bytes.get() + border * row + border * pixel + before,
           image,
           row,
           pixel,
           images,
           height,
           width,
           channels,
           border};
    std::memset(bytes.get(), kOutside, bytes.size);
  }
  static int64_t size_of(int64_t images, int64_t height, int64_t width, int64_t channels, int64_t border,
                         int64_t before, int64_t after) {
    const int64_t pixel = round_up(before + channels + after, 4);
    return images * (height + 2 * border) * (width + 2 * border) * pixel + 64;
  }
  uint8_t& at(int64_t image, int64_t y, int64_t x, int64_t c) {
    return map.data[image * map.image + y * map.row + x * map.pixel + c];
  }
  // f(image, y, x, channel) of every code, those of the border too.
  template <typename F>
  void for_codes(int64_t border, const F& f) const {
    for (int64_t i = 0; i < map.images; ++i)
      for (int64_t y = -border; y < map.height + border; ++y)
        for (int64_t x = -border; x < map.width + border; ++x)
          for (int64_t c = 0; c < map.channels; ++c) f(i, y, x, c);
  }
  // Random codes, or the extremes alone, with zero points around every image.
  void fill(uint8_t zero, bool extremes) {
    for_codes(map.border, [&](int64_t i, int64_t y, int64_t x, int64_t c) {
      const bool inside = y >= 0 && y < map.height && x >= 0 && x < map.width;
      const int64_t code = extremes ? 255 * random_int(0, 1) : random_int(0, 255);
      at(i, y, x, c) = inside ? static_cast<uint8_t>(code) : zero;
    });
  }

  Buffer<uint8_t> bytes;
  Map map;
};

inline uint8_t expected_limits(float v, int32_t low, int32_t high) {
  const double q = std::nearbyint(static_cast<double>(v));
  return static_cast<uint8_t>(q < low ? low : q > high ? high : q);
}

inline uint8_t expected_finish(const Epilogue8& e, float v) {
  if (e.finish == Finish::hard_swish) {
    float t = v * (1.0f / 6.0f);
    t = t + 0.5f;
    t = std::fmin(std::fmax(t, 0.0f), 1.0f);
    v = v * t;
    v = v * e.out_scale;
    v = v + e.out_zero;
  }
  const uint8_t q = expected_limits(v, e.low, e.high);
  return e.finish == Finish::table ? e.table[q] : q;
}

// One of the finishes that end in codes, and a table for it.
struct RandomFinish {
  RandomFinish() : table(256) {
    for (int64_t i = 0; i < 256; ++i) table[i] = static_cast<uint8_t>(random_int(0, 255));
    e = {static_cast<Finish>(random_int(0, 2)), 0, 255, 1.0f, 0.0f, table.get(), nullptr, 0.0f};
    if (random_int(0, 1)) e.low = static_cast<int32_t>(random_int(0, 90));
    if (random_int(0, 1)) e.high = static_cast<int32_t>(random_int(90, 255));
    if (e.finish == Finish::hard_swish) e.out_scale = 20.0f, e.out_zero = static_cast<float>(random_int(0, 30));
  }
  Buffer<uint8_t> table;
  Epilogue8 e;
};

}  // namespace harness
