// Dense convolutions against plain loops over the weights before they were packed: the exact bits.
#include <algorithm>

#include "checks.h"

namespace harness {
namespace {

struct Shape {
  int64_t images, height, width, channels, outputs, groups;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, pad_bottom, pad_right;
  bool whole_rows;

  int64_t of_group() const { return channels / groups; }  // input channels
  int64_t out_height() const {
    return (height + pad_top + pad_bottom - dilation_h * (kernel_h - 1) - 1) / stride_h + 1;
  }
  int64_t out_width() const { return (width + pad_left + pad_right - dilation_w * (kernel_w - 1) - 1) / stride_w + 1; }
};

// A map in a buffer that ends 64 bytes behind its last pixel. Whatever is no pixel of it is random.
struct TestMap {
  Buffer<uint8_t> bytes;
  Map map;

  TestMap(int64_t images, int64_t height, int64_t width, int64_t channels, int64_t pixel, int64_t border, bool extremes)
      : bytes(images * (height + 2 * border) * ((width + 2 * border) * pixel + 12) + 64) {
    const int64_t row = (width + 2 * border) * pixel + 12;
    map = {.data = bytes.get() + border * (row + pixel),
           .image = (height + 2 * border) * row,
           .row = row,
           .pixel = pixel,
           .images = images,
           .height = height,
           .width = width,
           .channels = channels,
           .border = border};
    for (int64_t i = 0; i < bytes.size; ++i) bytes[i] = extremes ? 255 * random_int(0, 1) : random_int(0, 255);
  }
  uint8_t& at(int64_t image, int64_t y, int64_t x, int64_t c) {
    return map.data[image * map.image + y * map.row + x * map.pixel + c];
  }
  void fill_border(int64_t width, uint8_t value) {  // of all pixels that lie around an image
    for (int64_t i = 0; i < map.images; ++i)
      for (int64_t y = -width; y < map.height + width; ++y)
        for (int64_t x = -width; x < map.width + width; ++x) {
          const bool inside = y >= 0 && y < map.height && x >= 0 && x < map.width;
          if (!inside) std::memset(&at(i, y, x, 0), value, map.pixel);
        }
  }
};

// Weights [outputs][kernel_h][kernel_w][of_group] in the order of convolution.h, with tiles of random widths.
struct TestConv {
  std::vector<ConvTile> tiles;
  std::unique_ptr<Buffer<int8_t>> weights;
  std::vector<int32_t> start, start_signed;
  std::vector<float> scale, bias;
  PackedConv packed;

  TestConv(const Shape& s, int64_t pixel, const std::vector<int8_t>& w, const std::vector<float>& scales,
           const std::vector<float>& biases, int64_t zero) {
    int64_t size = 0, lanes = 0;
    for (int64_t first = 0; first < s.outputs;) {
      const int64_t of_group = s.outputs / s.groups, vectors = random_int(1, 4), group = first / of_group;
      // To the end of a group, or several whole ones.
      const int64_t some = std::max<int64_t>(1, 16 * vectors / of_group);
      const int64_t last = first % of_group == 0 ? (group + some) * of_group : (group + 1) * of_group;
      const int64_t count = std::min({16 * vectors, last - first, s.outputs - first});
      const int64_t groups = (first + count - 1) / of_group - group + 1, inputs = groups * s.of_group();
      const int64_t depth = s.whole_rows ? s.kernel_w * pixel : round_up(inputs, 4);
      const int64_t taps = s.whole_rows ? s.kernel_h : s.kernel_h * s.kernel_w;
      tiles.push_back({.first = static_cast<int32_t>(first),
                       .outputs = static_cast<int32_t>(count),
                       .vectors = static_cast<int32_t>(vectors),
                       .channel = static_cast<int32_t>(group * s.of_group()),
                       .depth = static_cast<int32_t>(depth),
                       .lane = static_cast<int32_t>(lanes),
                       .weights = size});
      size += round_up(taps * depth * 16 * vectors, 64);
      lanes += 16 * vectors;
      first += count;
    }
    weights = std::make_unique<Buffer<int8_t>>(size);
    start.resize(lanes), start_signed.resize(lanes), scale.resize(lanes), bias.resize(lanes);
    for (const ConvTile& t : tiles) fill(s, t, pixel, w, scales, biases, zero);
    packed = {.tiles = tiles.data(),
              .tile_count = static_cast<int64_t>(tiles.size()),
              .weights = weights->get(),
              .start = start.data(),
              .start_signed = start_signed.data(),
              .scale = scale.data(),
              .bias = bias.data(),
              .kernel_h = static_cast<int32_t>(s.kernel_h),
              .kernel_w = static_cast<int32_t>(s.kernel_w),
              .stride_h = static_cast<int32_t>(s.stride_h),
              .stride_w = static_cast<int32_t>(s.stride_w),
              .dilation_h = static_cast<int32_t>(s.dilation_h),
              .dilation_w = static_cast<int32_t>(s.dilation_w),
              .pad_top = static_cast<int32_t>(s.pad_top),
              .pad_left = static_cast<int32_t>(s.pad_left),
              .whole_rows = s.whole_rows};
  }

  void fill(const Shape& s, const ConvTile& t, int64_t pixel, const std::vector<int8_t>& w,
            const std::vector<float>& scales, const std::vector<float>& biases, int64_t zero) {
    for (int64_t i = 0; i < t.outputs; ++i) {
      // Of every 64 outputs, four follow one another in a vector of a tile of four.
      const int64_t lane = t.vectors == 4 ? i % 16 / 4 * 16 + i / 16 * 4 + i % 4 : i;
      const int64_t n = t.first + i, skipped = n / (s.outputs / s.groups) * s.of_group() - t.channel;
      int64_t sum = 0;
      for (int64_t ky = 0; ky < s.kernel_h; ++ky)
        for (int64_t kx = 0; kx < s.kernel_w; ++kx)
          for (int64_t c = 0; c < s.of_group(); ++c) {
            const int8_t value = w[((n * s.kernel_h + ky) * s.kernel_w + kx) * s.of_group() + c];
            const int64_t k =
                s.whole_rows ? ky * t.depth + kx * pixel + c : (ky * s.kernel_w + kx) * t.depth + skipped + c;
            (*weights)[t.weights + k / 4 * 64 * t.vectors + 4 * lane + k % 4] = value;
            sum += value;
          }
      start[t.lane + lane] = static_cast<int32_t>(-zero * sum);
      start_signed[t.lane + lane] = static_cast<int32_t>((128 - zero) * sum);
      scale[t.lane + lane] = scales[n];
      bias[t.lane + lane] = biases[n];
    }
  }
};

int32_t expected_sum(const Shape& s, TestMap& in, const std::vector<int8_t>& w, int64_t zero, int64_t image, int64_t y,
                     int64_t x, int64_t n) {
  const int64_t first = n / (s.outputs / s.groups) * s.of_group();
  int32_t sum = 0;
  for (int64_t ky = 0; ky < s.kernel_h; ++ky)
    for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
      const int64_t iy = y * s.stride_h - s.pad_top + ky * s.dilation_h;
      const int64_t ix = x * s.stride_w - s.pad_left + kx * s.dilation_w;
      if (iy < 0 || iy >= s.height || ix < 0 || ix >= s.width) continue;
      const int8_t* row = w.data() + ((n * s.kernel_h + ky) * s.kernel_w + kx) * s.of_group();
      for (int64_t c = 0; c < s.of_group(); ++c)
        sum += (in.at(image, iy, ix, first + c) - static_cast<int32_t>(zero)) * row[c];
    }
  return sum;
}

uint8_t expected_code(const Epilogue8& e, float v) {
  if (e.finish == Finish::hard_swish) {
    const float t = std::fmin(std::fmax(v * (1.0f / 6) + 0.5f, 0.0f), 1.0f);
    v = v * t;
    v = v * e.out_scale;
    v = v + e.out_zero;
  }
  const float limited = std::fmin(std::fmax(std::nearbyint(v), static_cast<float>(e.low)), static_cast<float>(e.high));
  const auto q = static_cast<uint8_t>(limited);
  return e.finish == Finish::table ? e.table[q] : q;
}

Shape random_shape(int i) {
  const int64_t odd[] = {1, 3, 7, 16, 24, 61, 116}, kernels[] = {1, 1, 1, 2, 3, 3, 5, 9};
  const auto pick = [](const auto& list) { return list[random_int(0, std::size(list) - 1)]; };
  Shape s{};
  s.whole_rows = i % 8 == 7;
  s.groups = i % 4 == 2 ? random_int(2, 9) : 1;
  s.images = random_int(1, 3);
  s.height = random_int(1, 9), s.width = random_int(1, 9);
  s.channels = s.groups > 1 ? s.groups * random_int(1, 9) : s.whole_rows ? random_int(1, 4) : pick(odd);
  s.outputs = s.groups > 1 ? s.groups * random_int(1, 20) : random_int(1, 140);
  s.kernel_h = pick(kernels), s.kernel_w = random_int(0, 2) ? s.kernel_h : pick(kernels);
  if (s.channels > 24) s.kernel_h = std::min<int64_t>(s.kernel_h, 3), s.kernel_w = std::min<int64_t>(s.kernel_w, 3);
  s.stride_h = random_int(1, 3), s.stride_w = random_int(1, 3);
  s.dilation_h = random_int(0, 2) ? 1 : 2, s.dilation_w = random_int(0, 2) || s.whole_rows ? 1 : 2;
  const int64_t reach_h = s.dilation_h * (s.kernel_h - 1), reach_w = s.dilation_w * (s.kernel_w - 1);
  s.pad_top = random_int(0, reach_h), s.pad_left = random_int(0, reach_w);
  s.pad_bottom = std::max(random_int(0, reach_h), reach_h + 1 - s.height - s.pad_top);
  s.pad_right = std::max(random_int(0, reach_w), reach_w + 1 - s.width - s.pad_left);
  return s;
}

std::string words(const Shape& s, Finish finish) {
  const int64_t of[] = {s.images,   s.height,   s.width,    s.channels,   s.outputs,    s.groups,  s.kernel_h,
                        s.kernel_w, s.stride_h, s.stride_w, s.dilation_h, s.dilation_w, s.pad_top, s.pad_left};
  std::string text = "conv of images, height, width, channels, outputs, groups, kernel, strides, dilations, padding";
  for (int64_t x : of) text += " " + std::to_string(x);
  return text + (s.whole_rows ? " in whole rows" : "") + " finish " + std::to_string(static_cast<int>(finish));
}

// A convolution of random everything, with every table.
void check_shape(const Tables& tables, const Shape& s, int i) {
  const bool extremes = i % 5 == 0, ties = i % 5 == 1, near = i % 5 == 2, wide = random_int(0, 1) > 0;
  const int64_t zero = extremes ? 255 * random_int(0, 1) : random_int(0, 255),
                fan = s.of_group() * s.kernel_h * s.kernel_w;
  const int64_t pixel = s.whole_rows ? 4 : round_up(s.channels, 4) + (wide ? 8 : 0);
  const int64_t padding = std::max({s.pad_top, s.pad_left, s.pad_bottom, s.pad_right});
  TestMap in(s.images, s.height, s.width, s.channels, pixel, s.whole_rows ? padding + 1 : random_int(0, 1),
             extremes || near);
  if (s.whole_rows) in.fill_border(padding, static_cast<uint8_t>(zero));
  std::vector<int8_t> weights(s.outputs * fan);
  // near: of most pairs of weights the products with 255 just fit 16 bits, of some they don't.
  const int64_t largest = ties ? 1 : near ? 67 : 127;
  for (auto& w : weights) w = extremes ? (random_int(0, 3) ? 127 : -127) : random_int(-largest, largest);
  std::vector<float> scale(s.outputs), bias(s.outputs);
  for (auto& f : scale) f = ties ? 0.5f : random_float(1.0f) / (40 * std::sqrt(static_cast<float>(fan)));
  for (auto& f : bias) f = ties ? static_cast<float>(random_int(0, 255)) : 100.0f + random_float(90.0f);
  const TestConv conv(s, pixel, weights, scale, bias, zero);

  const auto finish = static_cast<Finish>(random_int(0, 3));
  const bool has_residual = finish != Finish::real && random_int(0, 1) > 0;
  const int64_t out_h = s.out_height(), out_w = s.out_width(), pixels = s.images * out_h * out_w;
  TestMap residual(s.images, out_h, out_w, s.outputs, round_up(s.outputs, 4), random_int(0, 1), extremes);
  TestMap out(s.images, out_h, out_w, s.outputs, round_up(s.outputs, 4) + 4 * random_int(0, 3), random_int(0, 2),
              false);
  Buffer<uint8_t> table(256);
  for (int64_t j = 0; j < 256; ++j) table[j] = random_int(0, 255);
  const int64_t low = random_int(0, 2) ? 0 : random_int(0, 100);
  const Epilogue8 e{.finish = finish,
                    .low = static_cast<int32_t>(low),
                    .high = static_cast<int32_t>(random_int(0, 2) ? 255 : random_int(low, 255)),
                    .out_scale = 1.0f / 3 + random_float(0.3f),
                    .out_zero = 20.0f,
                    .table = table.get(),
                    .residual = has_residual ? &residual.map : nullptr,
                    .residual_scale = ties ? 0.5f : random_float(1.0f)};
  int64_t depth = 0;
  for (const ConvTile& t : conv.tiles) depth = std::max<int64_t>(depth, t.depth);
  Buffer<uint8_t> zeros(depth + 64);
  std::memset(zeros.get(), static_cast<int>(zero), zeros.size);
  const int64_t ld_real = s.outputs + random_int(0, 3);
  Buffer<float> real(finish == Finish::real ? pixels * ld_real : 0);
  for (int64_t j = 0; j < real.size; ++j) real[j] = -1.0f;

  std::vector<uint8_t> before(out.bytes.get(), out.bytes.get() + out.bytes.size), wanted;
  std::vector<float> wanted_real(real.get(), real.get() + real.size);
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t n = 0; n < s.outputs; ++n) {
      const int64_t x = p % out_w, y = p / out_w % out_h, image = p / out_w / out_h;
      const float product = static_cast<float>(expected_sum(s, in, weights, zero, image, y, x, n)) * scale[n];
      float v = product + bias[n];
      if (finish == Finish::real) {
        wanted_real[p * ld_real + n] = v;
        continue;
      }
      if (has_residual) {
        const float more = static_cast<float>(residual.at(image, y, x, n)) * e.residual_scale;
        v = v + more;
      }
      out.at(image, y, x, n) = expected_code(e, v);
    }
  wanted.assign(out.bytes.get(), out.bytes.get() + out.bytes.size);

  const int64_t cut = random_int(0, pixels), tile_cut = random_int(0, conv.packed.tile_count);
  for (const Kernels* t : tables) {
    std::copy(before.begin(), before.end(), out.bytes.get());
    std::fill(real.get(), real.get() + real.size, -1.0f);
    for (const ConvRange& r : {ConvRange{0, cut, 0, tile_cut}, ConvRange{0, cut, tile_cut, conv.packed.tile_count},
                               ConvRange{cut, pixels, 0, conv.packed.tile_count}})
      t->conv(conv.packed, e, in.map, zeros.get(), out.map, real.get(), ld_real, r);
    const bool same = std::equal(wanted.begin(), wanted.end(), out.bytes.get()) &&
                      std::equal(wanted_real.begin(), wanted_real.end(), real.get());
    check(same, t->isa, words(s, finish) + (has_residual ? " with residual" : "") + " number " + std::to_string(i));
  }
}

}  // namespace

void check_conv(const Tables& tables) {
  Tables all = tables;
  all.insert(all.begin(), reference_kernels());
  for (int i = 0; i < 800; ++i) check_shape(all, random_shape(i), i);
}

}  // namespace harness
