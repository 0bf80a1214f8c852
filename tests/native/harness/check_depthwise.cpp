// Depthwise convolutions against plain loops: odd channels, every kernel and stride, dilation, wide borders, parts of
// concatenations, extremes. Weights are packed here by the words of csrc/cpu/convolution.h.
#include "checks.h"
#include "codes.h"

namespace harness {
namespace {

int64_t common_divisor(int64_t a, int64_t b) { return b == 0 ? a : common_divisor(b, a % b); }

struct Shape {
  int64_t channels, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
};

struct Weights {
  Weights(const Shape& s, int32_t zero, bool extremes, const Epilogue8& e)
      : taps(s.channels * s.kernel_h * s.kernel_w),
        sums(s.channels),
        factor(s.channels),
        bias(s.channels),
        pixel(round_up(s.channels, 4)),
        period(pixel / common_divisor(pixel, 64)),
        groups((s.kernel_w + 3) / 4),
        packed(period * s.kernel_h * groups * 256),
        start(period * 64),
        start_signed(period * 64),
        packed_scale(period * 64),
        packed_bias(period * 64) {
    const int64_t count = s.kernel_h * s.kernel_w;
    for (int64_t i = 0; i < taps.size; ++i)
      taps[i] = static_cast<int8_t>(extremes ? 254 * random_int(0, 1) - 127 : random_int(-127, 127));
    const float spread = e.finish == Finish::hard_swish ? 2.0f : 60.0f;
    for (int64_t c = 0; c < s.channels; ++c) {
      for (int64_t t = 0; t < count; ++t) sums[c] += taps[c * count + t];
      factor[c] = std::fabs(random_float(1.0f)) * spread / (4000.0f * std::sqrt(static_cast<float>(count)));
      bias[c] = (e.finish == Finish::hard_swish ? 0.0f : 128.0f) + random_float(spread);
    }
    for (int64_t p = 0; p < period; ++p) {
      for (int64_t byte = 0; byte < 64; ++byte) {
        const int64_t c = (64 * p + byte) % pixel, l = byte / 16, v = byte % 16 / 4, e4 = byte % 4;
        if (c >= s.channels) continue;
        for (int64_t ky = 0; ky < s.kernel_h; ++ky)
          for (int64_t kx = 0; kx < s.kernel_w; ++kx)
            packed[((p * s.kernel_h + ky) * groups + kx / 4) * 256 + 64 * v + 4 * (4 * l + e4) + kx % 4] =
                taps[c * count + ky * s.kernel_w + kx];
        const int64_t lane = p * 64 + 16 * v + 4 * l + e4;
        start[lane] = -zero * sums[c];
        start_signed[lane] = (128 - zero) * sums[c];
        packed_scale[lane] = factor[c];
        packed_bias[lane] = bias[c];
      }
    }
  }

  Buffer<int8_t> taps;  // [channels][kernel_h][kernel_w]
  Buffer<int32_t> sums;
  Buffer<float> factor, bias;
  int64_t pixel, period, groups;
  Buffer<int8_t> packed;
  Buffer<int32_t> start, start_signed;
  Buffer<float> packed_scale, packed_bias;
};

void check_shape(const Kernels& t, const Shape& s, int64_t images, int64_t height, int64_t width) {
  const auto pad_top = random_int(0, s.kernel_h - 1), pad_left = random_int(0, s.kernel_w - 1);
  // Of TensorFlow's "same", the padding behind may be larger than the one before.
  const auto pad_bottom = random_int(0, s.kernel_h - 1), pad_right = random_int(0, s.kernel_w - 1);
  const int64_t border = std::max(std::max(pad_top, pad_bottom), std::max(pad_left, pad_right)) + random_int(0, 1);
  const int64_t span_h = (s.kernel_h - 1) * s.dilation_h + 1, span_w = (s.kernel_w - 1) * s.dilation_w + 1;
  height = std::max(height, span_h), width = std::max(width, span_w);
  const int64_t out_h = (height + pad_top + pad_bottom - span_h) / s.stride_h + 1;
  const int64_t out_w = (width + pad_left + pad_right - span_w) / s.stride_w + 1;
  const bool extremes = random_int(0, 5) == 0, in_part = random_int(0, 5) == 0, out_part = random_int(0, 5) == 0;
  const auto zero = static_cast<int32_t>(random_int(0, 2) ? random_int(0, 255) : 255 * random_int(0, 1));

  const RandomFinish finish;
  Weights w(s, zero, extremes, finish.e);
  MapBuffer in(images, height, width, s.channels, border, in_part ? 4 : 0, in_part ? 8 : 0);
  in.fill(static_cast<uint8_t>(zero), extremes);
  MapBuffer out(images, out_h, out_w, s.channels, random_int(0, 2), out_part ? 8 : 0, out_part ? 4 : 0);
  const auto narrow = [](int64_t x) { return static_cast<int32_t>(x); };
  const PackedDepthwise packed = {w.pixel,
                                  w.period,
                                  w.packed.get(),
                                  w.start.get(),
                                  w.start_signed.get(),
                                  w.packed_scale.get(),
                                  w.packed_bias.get(),
                                  narrow(s.kernel_h),
                                  narrow(s.kernel_w),
                                  narrow(s.stride_h),
                                  narrow(s.stride_w),
                                  narrow(s.dilation_h),
                                  narrow(s.dilation_w),
                                  narrow(pad_top),
                                  narrow(pad_left)};
  const int64_t rows = images * out_h;
  const int64_t begin = random_int(0, 2) ? 0 : random_int(0, rows),
                end = random_int(0, 2) ? rows : random_int(begin, rows);
  t.depthwise(packed, finish.e, in.map, out.map, begin, end);

  bool same = true;
  out.for_codes(0, [&](int64_t i, int64_t y, int64_t x, int64_t c) {
    uint8_t expected = MapBuffer::kOutside;
    if (i * out_h + y >= begin && i * out_h + y < end) {
      int32_t acc = 0;
      for (int64_t ky = 0; ky < s.kernel_h; ++ky)
        for (int64_t kx = 0; kx < s.kernel_w; ++kx)
          acc += (in.at(i, y * s.stride_h - pad_top + ky * s.dilation_h, x * s.stride_w - pad_left + kx * s.dilation_w,
                        c) -
                  zero) *
                 w.taps[(c * s.kernel_h + ky) * s.kernel_w + kx];
      const float product = static_cast<float>(acc) * w.factor[c];
      expected = expected_finish(finish.e, product + w.bias[c]);
    }
    same = same && out.at(i, y, x, c) == expected;
    out.at(i, y, x, c) = MapBuffer::kOutside;
  });
  // The bytes between the channels of a map that lies alone and the next multiple of 4 mean nothing.
  if (!out_part) {
    for (int64_t i = 0; i < images; ++i)
      for (int64_t y = 0; y < out_h; ++y)
        for (int64_t x = 0; x < out_w; ++x)
          for (int64_t c = s.channels; c < out.map.pixel; ++c) out.at(i, y, x, c) = MapBuffer::kOutside;
  }
  bool outside = true;
  for (int64_t i = 0; i < out.bytes.size; ++i) outside = outside && out.bytes[i] == MapBuffer::kOutside;
  const auto text = [](int64_t x) { return std::to_string(x); };
  const std::string what = "depthwise " + text(s.channels) + " channels, kernel " + text(s.kernel_h) + " x " +
                           text(s.kernel_w) + ", stride " + text(s.stride_h) + " x " + text(s.stride_w) +
                           ", dilation " + text(s.dilation_h) + " x " + text(s.dilation_w) + ", map " + text(height) +
                           " x " + text(width) + ", finish " + text(static_cast<int64_t>(finish.e.finish)) +
                           (extremes ? ", extremes" : "") + (in_part || out_part ? ", part of a concatenation" : "");
  check(same, t.isa, what);
  check(outside, t.isa, what + ": bytes outside of the result");
}

}  // namespace

void check_depthwise(const Kernels& t) {
  const int64_t channels[] = {1, 3, 7, 24, 32, 64, 72, 96, 116, 144};
  const int64_t kernels[][2] = {{1, 1}, {2, 2}, {3, 3}, {3, 3}, {3, 3}, {5, 5}, {5, 5}, {7, 7}, {3, 5}, {1, 7}, {9, 2}};
  for (int round = 0; round < 4; ++round) {
    for (const int64_t c : channels) {
      for (const auto& k : kernels) {
        const int64_t stride = round == 3 ? random_int(1, 3) : round % 2 + 1;
        const bool square = random_int(0, 3) > 0, dilated = random_int(0, 5) == 0;
        const Shape shape = {
            c, k[0], k[1], stride, square ? stride : random_int(1, 3), dilated ? 2 : 1, dilated ? random_int(1, 3) : 1};
        check_shape(t, shape, random_int(0, 3) ? 1 : random_int(0, 3), random_int(1, 12), random_int(1, 9));
      }
    }
  }
}

}  // namespace harness
