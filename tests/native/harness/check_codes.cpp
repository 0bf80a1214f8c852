// Pooling, sums and products of maps of codes, tables, and pixels that become codes, against plain loops.
#if defined(KDNATIVE_HAS_avx512vnni)
#include "../../../csrc/cpu/avx512vnni/look_up.h"
#endif
#include "checks.h"
#include "codes.h"

namespace harness {
namespace {

constexpr int64_t kChannels[] = {1, 3, 4, 7, 16, 24, 32, 64, 65, 116, 144};

Buffer<uint8_t> random_codes(int64_t n) {
  Buffer<uint8_t> codes(n);
  const bool extremes = random_int(0, 4) == 0;
  for (int64_t i = 0; i < n; ++i)
    codes[i] = static_cast<uint8_t>(extremes ? 255 * random_int(0, 1) : random_int(0, 255));
  return codes;
}

void check_windows(const Kernels& t, int64_t channels) {
  const int64_t height = random_int(1, 20), width = random_int(1, 20), images = random_int(1, 2);
  const bool part = random_int(0, 3) == 0;
  MapBuffer in(images, height, width, channels, random_int(0, 1), part ? 4 : 0, part ? 4 : 0);
  in.fill(0, random_int(0, 4) == 0);
  const bool whole = random_int(0, 2) == 0;
  const int64_t y0 = whole ? 0 : random_int(0, height - 1), x0 = whole ? 0 : random_int(0, width - 1);
  const Window w = {random_int(0, images - 1), y0, whole ? height : random_int(y0 + 1, height), x0,
                    whole ? width : random_int(x0 + 1, width)};
  const auto zero = static_cast<int32_t>(random_int(0, 255));
  const auto pixels = static_cast<int32_t>((w.y1 - w.y0) * (w.x1 - w.x0));
  const float scale = random_factor() / static_cast<float>(pixels), out_zero = static_cast<float>(random_int(0, 255));
  Buffer<uint8_t> largest(channels + 1), average(channels + 1);
  largest[channels] = average[channels] = MapBuffer::kOutside;
  t.max_window(in.map, w, largest.get());
  t.average_window(in.map, w, zero, scale, out_zero, average.get());
  bool max_same = largest[channels] == MapBuffer::kOutside, average_same = average[channels] == MapBuffer::kOutside;
  for (int64_t c = 0; c < channels; ++c) {
    int32_t sum = 0, most = 0;
    for (int64_t y = w.y0; y < w.y1; ++y)
      for (int64_t x = w.x0; x < w.x1; ++x) {
        sum += in.at(w.image, y, x, c) - zero;
        most = std::max<int32_t>(most, in.at(w.image, y, x, c));
      }
    const float product = static_cast<float>(sum) * scale;
    max_same = max_same && largest[c] == most;
    average_same = average_same && average[c] == expected_limits(product + out_zero, 0, 255);
  }
  const std::string what = " of " + std::to_string(channels) + " channels, " + std::to_string(pixels) + " pixels";
  check(max_same, t.isa, "max_window" + what);
  check(average_same, t.isa, "average_window" + what);
}

void check_add(const Kernels& t, int64_t n) {
  Buffer<uint8_t> a = random_codes(n), b = random_codes(n), out(n + 1);
  out[n] = MapBuffer::kOutside;
  const RandomFinish finish;
  const float scale_a = random_factor(), scale_b = random_factor(), offset = random_float(300.0f);
  t.add_codes(a.get(), b.get(), n, scale_a, offset, scale_b, finish.e, out.get());
  bool same = out[n] == MapBuffer::kOutside;
  for (int64_t i = 0; i < n; ++i) {
    const float x = static_cast<float>(a[i]) * scale_a, y = static_cast<float>(b[i]) * scale_b, first = x + offset;
    same = same && out[i] == expected_finish(finish.e, first + y);
  }
  check(same, t.isa, "add_codes n=" + std::to_string(n));
}

void check_multiply(const Kernels& t, int64_t channels) {
  const int64_t pixels = random_int(0, 9), pixel = round_up(channels, 4) + 4 * random_int(0, 1),
                out_pixel = round_up(channels, 4) + 4 * random_int(0, 1);
  Buffer<uint8_t> x = random_codes(pixels * pixel + 64), gate = random_codes(channels), out(pixels * out_pixel);
  std::memset(out.get(), MapBuffer::kOutside, out.size);
  const auto zero = static_cast<int32_t>(random_int(0, 255)), gate_zero = static_cast<int32_t>(random_int(0, 255));
  const float scale = random_factor() / 256.0f, out_zero = static_cast<float>(random_int(0, 255));
  t.multiply_codes(x.get(), pixel, gate.get(), pixels, channels, zero, gate_zero, scale, out_zero, out.get(),
                   out_pixel);
  bool same = true;
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t c = 0; c < out_pixel; ++c) {
      const float product =
          static_cast<float>((x[p * pixel + c] - zero) * (gate[c < channels ? c : 0] - gate_zero)) * scale;
      const uint8_t expected = c < channels ? expected_limits(product + out_zero, 0, 255) : MapBuffer::kOutside;
      same = same && out[p * out_pixel + c] == expected;
    }
  check(same, t.isa, "multiply_codes channels=" + std::to_string(channels));
}

void check_look_up(const char* isa, LookUpFn* look_up, int64_t n) {
  Buffer<uint8_t> table = random_codes(256), x = random_codes(n), out(n + 1);
  for (int64_t i = 0; i < 256; ++i) table[i] = static_cast<uint8_t>(random_int(0, 255));
  for (int64_t i = 0; i < n && n >= 256; ++i) x[i] = static_cast<uint8_t>(i);  // every code
  out[n] = MapBuffer::kOutside;
  look_up(x.get(), n, table.get(), out.get());
  bool same = out[n] == MapBuffer::kOutside;
  for (int64_t i = 0; i < n; ++i) same = same && out[i] == table[x[i]];
  look_up(x.get(), n, table.get(), x.get());
  same = same && std::memcmp(x.get(), out.get(), static_cast<size_t>(n)) == 0;
  check(same, isa, "look_up n=" + std::to_string(n));
}

// Layouts: planes, channels beside one another, pixels with gaps, columns of a transposed image.
void check_pixels(const Kernels& t, int64_t channels, int64_t pixels, DType type, int layout) {
  const int64_t gap = layout == 2 ? random_int(1, 5) : layout == 3 ? 200 : 0;
  const int64_t plane = layout == 0 ? pixels + random_int(0, 3) : layout == 3 ? 3 : 1;
  const int64_t step = layout == 0 ? 1 : layout == 3 ? channels * 3 + gap : channels + gap;
  const int64_t out_pixel = round_up(channels, 4) + (random_int(0, 2) ? 0 : 4);
  Buffer<float> x(pixels == 0 ? 0 : (channels - 1) * plane + (pixels - 1) * step + 1), scale(channels),
      offset(channels);
  Buffer<uint16_t> half(x.size);
  const bool special = random_int(0, 3) == 0;
  for (int64_t i = 0; i < x.size; ++i) {
    x[i] = random_int(0, 3) ? random_float(3.0f) : static_cast<float>(random_int(-8, 8)) * 0.25f;  // with ties
    if (special && random_int(0, 6) == 0) x[i] = random_int(0, 1) ? INFINITY : -INFINITY;
    if (type != DType::f32) {
      half[i] = type == DType::bf16 ? float_to_bf16(x[i]) : float_to_f16(x[i]);
      x[i] = type == DType::bf16 ? bf16_to_float(half[i]) : f16_to_float(half[i]);
    }
  }
  for (int64_t i = 0; i < x.size && layout == 2; ++i) {  // what lies between pixels means nothing
    if (i % step >= channels) x[i] = NAN, half[i] = 0x7fff;
  }
  const bool nan = pixels > 0 && random_int(0, 3) == 0;
  if (nan) {
    const int64_t at = random_int(0, channels - 1) * plane + random_int(0, pixels - 1) * step;
    x[at] = NAN;
    half[at] = 0x7fff;
  }
  for (int64_t c = 0; c < channels; ++c) {
    scale[c] = random_int(0, 1) ? 32.0f : std::exp2(random_float(6.0f));
    offset[c] = static_cast<float>(random_int(0, 255));
  }
  Buffer<uint8_t> out(pixels * out_pixel + 1);
  std::memset(out.get(), MapBuffer::kOutside, out.size);
  const void* data = type == DType::f32 ? static_cast<const void*>(x.get()) : half.get();
  const bool sound = t.quantize_pixels(data, static_cast<int32_t>(type), plane, step, pixels, channels, scale.get(),
                                       offset.get(), out.get(), out_pixel);
  bool same = out[pixels * out_pixel] == MapBuffer::kOutside && sound == !nan;
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < round_up(channels, 4); ++c) {
      const float value = c < channels ? x[c * plane + p * step] : NAN;
      const float product = value * scale[c < channels ? c : 0];
      const uint8_t expected = std::isnan(value) ? 0 : expected_limits(product + offset[c], 0, 255);
      same = same && out[p * out_pixel + c] == expected;
    }
  }
  check(same, t.isa,
        "quantize_pixels channels=" + std::to_string(channels) + " pixels=" + std::to_string(pixels) + " type=" +
            std::to_string(static_cast<int>(type)) + " layout=" + std::to_string(layout) + (nan ? " with NaN" : ""));
}

}  // namespace

void check_codes(const Kernels& t) {
  for (int round = 0; round < 12; ++round) {
    for (const int64_t channels : kChannels) {
      check_windows(t, channels);
      check_multiply(t, channels);
    }
  }
  MapBuffer large(1, 67, 61, 24, 0);  // sums beyond 16 bits
  std::memset(large.bytes.get(), 255, large.bytes.size);
  Buffer<uint8_t> mean(24);
  t.average_window(large.map, {0, 0, 67, 0, 61}, 1, 1.0f / (67 * 61), 1.0f, mean.get());
  for (int64_t c = 0; c < 24; ++c) check(mean[c] == 255, t.isa, "average_window of a large map");
  for (const int64_t n : {0, 1, 15, 31, 64, 65, 200, 256, 300, 4096, 4099, 9000}) {
    for (int i = 0; i < 3; ++i) check_add(t, n);
    check_look_up(t.isa, t.look_up, n);
#if defined(KDNATIVE_HAS_avx512vnni)
    if (std::string(t.isa) == "avx512vnni") check_look_up("avx512vnni without VBMI", avx512vnni::look_up_words, n);
#endif
  }
  for (const int64_t channels : {1, 2, 3, 4, 5, 8, 13})
    for (const int64_t pixels : {0, 1, 2, 5, 16, 17, 33, 224, 1500})
      for (int type = 0; type < 3; ++type)
        for (int layout = 0; layout < 4; ++layout) check_pixels(t, channels, pixels, static_cast<DType>(type), layout);
}

}  // namespace harness
