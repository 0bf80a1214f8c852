#include "convnet_steps.h"

#include <atomic>
#include <cstring>

namespace kdnative::cpu {
namespace {

uint8_t* pixel_at(const Map& m, int64_t image, int64_t y, int64_t x) {
  return m.data + image * m.image + y * m.row + x * m.pixel;
}

// f(image, y) for rows [begin, end), counted over all images.
template <typename F>
void for_each_row(const Map& m, const Share& share, const F& f) {
  for (int64_t row = share.begin; row < share.end; ++row) f(row / m.height, row % m.height);
}

// Whether the rows of an image follow one another, so that they may be taken as one.
bool is_line(const Map& m) { return m.row == m.width * m.pixel; }

// f(image, y, pixels) for rows [begin, end) in runs of pixels that lie evenly in both maps: all rows of an image where
// neither has a border, else one row.
template <typename F>
void for_each_run(const Map& a, const Map& out, const Share& share, const F& f) {
  const bool even = is_line(a) && is_line(out);
  for (int64_t row = share.begin; row < share.end;) {
    const int64_t y = row % out.height, left = std::min(out.height - y, share.end - row), rows = even ? left : 1;
    f(row / out.height, y, rows * out.width);
    row += rows;
  }
}

// f(x, y, n, out) for pieces of n bytes of a row that lie together in all maps: the whole row, or its pixels.
template <typename F>
void for_each_piece(const Map& out, bool together, const F& f) {
  if (together) return f(0, out.width * out.pixel);
  for (int64_t x = 0; x < out.width; ++x) f(x, out.channels);
}

// Whether pixels follow one another without bytes of other maps. A part of a concatenation may look so, where both have
// as many bytes to a pixel.
bool alone(const Map& m) { return m.pixel == padded_channels(m.channels); }

// The pixels [begin, end) of an axis that a window covers, those of the padding included.
struct Covered {
  int64_t begin, end;
};

Covered covered(bool adaptive, int64_t at, int64_t size, int64_t results, int64_t kernel, int64_t stride,
                int64_t padding) {
  if (adaptive) return {at * size / results, ((at + 1) * size + results - 1) / results};
  const int64_t begin = at * stride - padding;
  return {begin, std::min(begin + kernel, size + padding)};
}

// Where a row or column of a resized map comes from: two of them, and the share of the second in 2048ths.
struct Source {
  int64_t first, second, weight;
};

Source source_of(const ConvnetRecord& r, int64_t at, int64_t size, int64_t results, bool by_factor, double factor) {
  const auto last = static_cast<double>(size - 1);
  const double step = by_factor ? 1 / factor : static_cast<double>(size) / static_cast<double>(results);
  if (r.bilinear == 0) {  // in fp32, as torch does it: some results differ from those in exact arithmetic
    if (results == size) return {at, at, 0};
    if (results == 2 * size) return {at / 2, at / 2, 0};
    const float ratio = by_factor ? static_cast<float>(step) : static_cast<float>(size) / static_cast<float>(results);
    const int64_t found = std::min(static_cast<int64_t>(static_cast<float>(at) * ratio), size - 1);
    return {found, found, 0};
  }
  double place = (static_cast<double>(at) + 0.5) * step - 0.5;
  if (r.align_corners != 0)
    place = results > 1 ? static_cast<double>(at) * (last / static_cast<double>(results - 1)) : 0.0;
  place = std::min(std::max(place, 0.0), last);
  const auto first = static_cast<int64_t>(place);
  const auto weight = static_cast<int64_t>((place - static_cast<double>(first)) * 2048 + 0.5);
  return {first, std::min(first + 1, size - 1), weight};
}

}  // namespace

double ConvnetGroup::work(int64_t step) const {
  const int64_t i = node_of(step);
  const ConvnetRecord& r = *node(i).record;
  const auto pixels = static_cast<double>(planned(i).pixels()), channels = static_cast<double>(r.channels);
  if (step < 0) return 16 * pixels * channels;
  switch (r.kind) {
    case NodeKind::conv:
      return pixels * (static_cast<double>(r.weight_bytes) + 16 * channels);
    case NodeKind::depthwise:
      return pixels * channels * (4 * r.kernel_h * ((r.kernel_w + 3) / 4) + 16);
    case NodeKind::max:
      return pixels * channels * (r.kernel_h * r.kernel_w + 4);
    case NodeKind::average:
      return 4 * static_cast<double>(planned(node(i).inputs[0]).pixels()) * channels;
    default:
      return 16 * pixels * channels;
  }
}

Map ConvnetGroup::map(int64_t i, const Span& span, int64_t worker) const {
  const PlannedMap &m = planned(i), &root = plan.root_of(i);
  const int64_t pixel = plan.pixel_bytes(model, i), row = (root.width + 2 * root.border) * pixel;
  uint8_t* base = root.grouped ? group_maps + root.place + span.first * root.bytes
                               : image_maps + worker * plan.image.bytes() + root.place;
  return {base + root.border * (row + pixel) + m.shift,
          root.bytes,
          row,
          pixel,
          span.count,
          m.height,
          m.width,
          node(i).record->channels,
          root.border};
}

void ConvnetGroup::fill_border(int64_t i, const Map& m) const {
  const int64_t border = planned(i).border, above = border * (m.row + m.pixel), side = border * m.pixel;
  const int32_t zero = node(i).record->zero;
  const auto fill = [&](uint8_t* from, int64_t bytes) { std::memset(from, zero, static_cast<size_t>(bytes)); };
  for (int64_t image = 0; image < m.images; ++image) {
    uint8_t* const inside = m.data + image * m.image;
    fill(inside - above, above);
    for (int64_t y = 0; y + 1 < m.height; ++y) fill(inside + y * m.row + m.width * m.pixel, 2 * side);
    fill(inside + (m.height - 1) * m.row + m.width * m.pixel, above);
  }
}

void ConvnetGroup::run(int64_t step, const Span& span, const Share& share, int64_t worker) const {
  if (step < 0) return give_back(~step, span, share, worker);
  const ConvnetNode& n = node(step);
  const ConvnetRecord& r = *n.record;
  if (r.kind == NodeKind::conv) {
    if (r.real == 0 && planned(step).border > 0 && share.begin == 0 && share.tile_begin == 0)
      fill_border(step, map(step, span, worker));
    return convolve(step, span, share, worker);
  }
  const Map out = map(step, span, worker);
  if (planned(step).border > 0 && share.begin == 0) fill_border(step, out);
  if (r.kind == NodeKind::input) return quantize(out, span, share);
  const Map a = map(n.inputs[0], span, worker);
  switch (r.kind) {
    case NodeKind::depthwise:
      return filter(step, a, out, share);
    case NodeKind::max:
    case NodeKind::average:
      return pool(step, a, out, share);
    case NodeKind::add: {
      const Map b = map(n.inputs[1], span, worker);
      const bool together = alone(a) && alone(b) && alone(out) && planned(step).root == step;
      return for_each_row(out, share, [&](int64_t image, int64_t y) {
        for_each_piece(out, together, [&](int64_t x, int64_t bytes) {
          kernels.add_codes(pixel_at(a, image, y, x), pixel_at(b, image, y, x), bytes, r.scale_a, r.offset,
                            r.residual_scale, n.epilogue, pixel_at(out, image, y, x));
        });
      });
    }
    case NodeKind::multiply: {
      const Map gate = map(n.inputs[1], span, worker);
      const int32_t zero = node(n.inputs[0]).record->zero, gate_zero = node(n.inputs[1]).record->zero;
      return for_each_run(a, out, share, [&](int64_t image, int64_t y, int64_t pixels) {
        kernels.multiply_codes(pixel_at(a, image, y, 0), a.pixel, pixel_at(gate, image, 0, 0), pixels, out.channels,
                               zero, gate_zero, r.scale, static_cast<float>(r.zero), pixel_at(out, image, y, 0),
                               out.pixel);
      });
    }
    case NodeKind::concat:
      return join(step, span, out, share, worker);
    case NodeKind::channels:
      if (plan.is_view(model, step)) return;
      return for_each_row(out, share, [&](int64_t image, int64_t y) {
        for (int64_t x = 0; x < out.width; ++x) {
          const uint8_t* from = pixel_at(a, image, y, x);
          uint8_t* to = pixel_at(out, image, y, x);
          for (int64_t c = 0; c < out.channels; ++c) to[c] = from[n.order[c]];
        }
      });
    case NodeKind::lookup: {
      const bool together = alone(a) && alone(out) && planned(step).root == step;
      return for_each_row(out, share, [&](int64_t image, int64_t y) {
        for_each_piece(out, together, [&](int64_t x, int64_t bytes) {
          kernels.look_up(pixel_at(a, image, y, x), bytes, n.table, pixel_at(out, image, y, x));
        });
      });
    }
    default:
      return resize(step, a, out, share);
  }
}

void ConvnetGroup::quantize(const Map& out, const Span& span, const Share& share) const {
  const ConvnetNode& n = node(0);
  const int64_t size = in.type == DType::f32 ? 4 : 2;
  for_each_row(out, share, [&](int64_t image, int64_t y) {
    const int64_t number = span.first + image;
    const auto* x =
        static_cast<const uint8_t*>(in.images) + ((first + number) * in.image_stride + y * in.row_stride) * size;
    if (!kernels.quantize_pixels(x, static_cast<int32_t>(in.type), in.plane_stride, in.step, out.width, out.channels,
                                 n.scales, n.biases, pixel_at(out, image, y, 0), out.pixel))
      std::atomic_ref(unsound[number]).store(true, std::memory_order_relaxed);  // tasks of one image may all do it
  });
}

void ConvnetGroup::convolve(int64_t i, const Span& span, const Share& share, int64_t worker) const {
  const ConvnetNode& n = node(i);
  const PlannedMap& m = planned(i);
  PackedConv w = n.conv;
  w.pad_top = static_cast<int32_t>(m.pad_top);
  w.pad_left = static_cast<int32_t>(m.pad_left);
  const Map a = map(n.inputs[0], span, worker);
  const ConvRange range{share.begin, share.end, share.tile_begin, share.tile_end};
  if (n.record->real == 0) {
    Epilogue8 e = n.epilogue;
    Map from = a, to = map(i, span, worker), residual{};
    if (n.record->input_count == 2) {
      residual = map(n.inputs[1], span, worker);
      e.residual = &residual;
    }
    // Pixels that see themselves alone may be one line, and lines are what costs.
    const bool single =
        w.kernel_h * w.kernel_w * w.stride_h * w.stride_w == 1 && from.height == to.height && from.width == to.width;
    if (single && is_line(from) && is_line(to) && (e.residual == nullptr || is_line(residual)))
      for (Map* m : {&from, &to, &residual}) m->width *= m->height, m->height = 1;
    return kernels.conv(w, e, from, n.zeros, to, nullptr, 0, range);
  }
  float* const real = out + (first + span.first) * plan.features + plan.feature_of(model, i);
  Map sizes{nullptr, 0, 0, 0, span.count, m.height, m.width, n.record->channels, 0};
  if (m.pixels() == 1) return kernels.conv(w, n.epilogue, a, n.zeros, sizes, real, plan.features, range);
  sizes.images = 1;
  for (int64_t image = share.begin / m.pixels(); image * m.pixels() < share.end; ++image) {
    Map one = a;
    one.images = 1;
    one.data += image * a.image;
    const int64_t before = image * m.pixels();
    kernels.conv(w, n.epilogue, one, n.zeros, sizes, real + image * plan.features, sizes.channels,
                 {std::max(share.begin - before, int64_t{0}), std::min(share.end - before, m.pixels()),
                  share.tile_begin, share.tile_end});
  }
}

void ConvnetGroup::filter(int64_t i, const Map& a, const Map& result, const Share& share) const {
  const Epilogue8& e = node(i).epilogue;
  PackedDepthwise w = node(i).depthwise;
  w.pad_top = static_cast<int32_t>(planned(i).pad_top);
  w.pad_left = static_cast<int32_t>(planned(i).pad_left);
  if (a.pixel == w.pixel && result.pixel == w.pixel) return kernels.depthwise(w, e, a, result, share.begin, share.end);
  // Pixels that lie apart, of a map that is a part of another one: each is a row of its own.
  const auto column = [&](const Map& m, int64_t image, int64_t y) {
    return Map{pixel_at(m, image, y, 0), m.width * m.pixel, m.pixel, w.pixel, 1, m.width, 1, m.channels};
  };
  for_each_row(result, share, [&](int64_t image, int64_t y) {
    kernels.depthwise(w, e, column(a, image, y), column(result, image, y), 0, result.width);
  });
}

void ConvnetGroup::pool(int64_t i, const Map& a, const Map& result, const Share& share) const {
  const ConvnetRecord& r = *node(i).record;
  const ConvnetRecord& before = *node(node(i).inputs[0]).record;
  const bool adaptive = r.adaptive != 0;
  for_each_row(result, share, [&](int64_t image, int64_t y) {
    const Covered rows = covered(adaptive, y, a.height, result.height, r.kernel_h, r.stride_h, r.pad_top);
    for (int64_t x = 0; x < result.width; ++x) {
      const Covered columns = covered(adaptive, x, a.width, result.width, r.kernel_w, r.stride_w, r.pad_left);
      const Window window{image, std::max(rows.begin, int64_t{0}), std::min(rows.end, a.height),
                          std::max(columns.begin, int64_t{0}), std::min(columns.end, a.width)};
      uint8_t* const to = pixel_at(result, image, y, x);
      if (r.kind == NodeKind::max) {
        kernels.max_window(a, window, to);
        continue;
      }
      const int64_t pixels = !adaptive && r.count_pad != 0 ? (rows.end - rows.begin) * (columns.end - columns.begin)
                                                           : (window.y1 - window.y0) * (window.x1 - window.x0);
      const auto scale = static_cast<float>(before.step / (static_cast<double>(pixels) * r.step));
      kernels.average_window(a, window, before.zero, scale, static_cast<float>(r.zero), to);
    }
  });
}

void ConvnetGroup::join(int64_t i, const Span& span, const Map& whole, const Share& share, int64_t worker) const {
  const ConvnetNode& n = node(i);
  int64_t shift = 0;
  for (int64_t j = 0; j < n.record->input_count; ++j) {
    const Map part = map(n.inputs[j], span, worker);
    const ConvnetRecord& from = *node(n.inputs[j]).record;
    const bool same = from.step == n.record->step && from.zero == n.record->zero;
    if (!plan.in_place(n.inputs[j], i, shift)) {
      for_each_row(part, share, [&](int64_t image, int64_t y) {
        for (int64_t x = 0; x < part.width; ++x) {
          const uint8_t* const codes = pixel_at(part, image, y, x);
          uint8_t* const to = pixel_at(whole, image, y, x) + shift;
          if (same || n.table == nullptr)
            std::memcpy(to, codes, static_cast<size_t>(part.channels));
          else
            kernels.look_up(codes, part.channels, n.table + 256 * j, to);
        }
      });
    }
    shift += part.channels;
  }
}

// Bilinear: integers alone, q = (sum of codes * weights + 2^21) >> 22, weights in 2048ths of a row and of a column.
void ConvnetGroup::resize(int64_t i, const Map& a, const Map& result, const Share& share) const {
  const ConvnetRecord& r = *node(i).record;
  const bool by_factor = r.size_h == 0;
  for_each_row(result, share, [&](int64_t image, int64_t y) {
    const Source row = source_of(r, y, a.height, result.height, by_factor, r.factor_h);
    for (int64_t x = 0; x < result.width; ++x) {
      const Source column = source_of(r, x, a.width, result.width, by_factor, r.factor_w);
      uint8_t* const to = pixel_at(result, image, y, x);
      const uint8_t* const top = pixel_at(a, image, row.first, column.first);
      if (r.bilinear == 0) {
        std::memcpy(to, top, static_cast<size_t>(result.channels));
        continue;
      }
      const int64_t right = (column.second - column.first) * a.pixel, below = (row.second - row.first) * a.row;
      for (int64_t c = 0; c < result.channels; ++c) {
        const int64_t upper = top[c] * (2048 - column.weight) + top[c + right] * column.weight;
        const int64_t lower = top[c + below] * (2048 - column.weight) + top[c + below + right] * column.weight;
        to[c] = static_cast<uint8_t>((upper * (2048 - row.weight) + lower * row.weight + (1 << 21)) >> 22);
      }
    }
  });
}

void ConvnetGroup::give_back(int64_t output, const Span& span, const Share& share, int64_t worker) const {
  const int64_t i = model.outputs[output];
  const Map m = map(i, span, worker);
  const int32_t zero = node(i).record->zero;
  const auto step = static_cast<float>(node(i).record->step);
  const int64_t place = plan.feature_places[static_cast<size_t>(output)];
  for_each_row(m, share, [&](int64_t image, int64_t y) {
    float* to = out + (first + span.first + image) * plan.features + place + y * m.width * m.channels;
    for (int64_t x = 0; x < m.width; ++x, to += m.channels) {
      const uint8_t* const codes = pixel_at(m, image, y, x);
      for (int64_t c = 0; c < m.channels; ++c) to[c] = static_cast<float>(codes[c] - zero) * step;
    }
  });
}

}  // namespace kdnative::cpu
