#include "convnet_plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "rounding_up.h"

namespace kdnative::cpu {
namespace {

constexpr int64_t kMostSide = 1 << 16;             // of a map
constexpr int64_t kMostBorder = 1 << 13;           // around a map
constexpr int64_t kMostWindow = int64_t{1} << 22;  // pixels of an average: its sum stays within int32
constexpr int64_t kSmallMap = 100;                 // pixels, of the maps that a group shares

// Of the maps of an image: far more than any network has, so that a damaged one does not take all memory.
constexpr int64_t most_bytes(int64_t pixels) { return (int64_t{1} << 24) + 2048 * pixels; }

template <typename... Args>
const char* complain(const char* format, Args... args) {
  thread_local char text[256];
  std::snprintf(text, sizeof text, format, args...);
  return text;
}

struct Axis {
  int64_t size;    // of the result; 0: the input is too small
  int64_t before;  // padding
};

Axis convolved(int64_t size, int64_t kernel, int64_t stride, int64_t dilation, int64_t before, int64_t after,
               bool same) {
  const int64_t reach = dilation * (kernel - 1) + 1;
  if (same) {
    const int64_t count = ceil_div(size, stride), missing = std::max((count - 1) * stride + reach - size, int64_t{0});
    return {count, missing / 2};
  }
  const int64_t room = size + before + after - reach;
  return {room < 0 ? 0 : room / stride + 1, before};
}

// As torch has it: in ceil_mode the last window begins inside of the map or of the padding before it.
int64_t pooled(int64_t size, int64_t kernel, int64_t stride, int64_t padding, bool ceil_mode) {
  const int64_t room = size + 2 * padding - kernel;
  if (room <= (ceil_mode ? -stride : -1)) return 0;
  if (!ceil_mode) return room / stride + 1;
  const int64_t count = (room + stride - 1) / stride + 1;
  return (count - 1) * stride >= size + padding ? count - 1 : count;
}

int64_t resized(int64_t size, int32_t fixed, double factor) {
  if (fixed > 0) return fixed;
  const double found = std::floor(static_cast<double>(size) * factor);
  return found <= static_cast<double>(kMostSide) ? static_cast<int64_t>(found) : kMostSide + 1;
}

class Planner {
 public:
  Planner(const ConvnetModel& model, ConvnetPlan& plan) : model_(model), plan_(plan), maps_(plan.maps) {}

  const char* measure(int64_t height, int64_t width) {
    maps_.assign(model_.nodes.size(), {});
    if (height > kMostSide || width > kMostSide) return too_large(height, width);
    const int64_t most = most_bytes(height * width);
    for (int64_t i = 0; i < count(); ++i) {
      PlannedMap& m = map(i);
      m.root = i;
      m.overrun = 64;
      if (const char* problem = i == 0 ? (m.height = height, m.width = width, nullptr) : measure_node(i, m))
        return problem;
      if (m.height < 1 || m.width < 1)
        return complain(
            "images of %lld x %lld pixels are too small: node %lld of the network has nothing to work on; "
            "give larger ones",
            static_cast<long long>(height), static_cast<long long>(width), static_cast<long long>(i));
      if (m.height > kMostSide || m.width > kMostSide || m.pixels() * padded_channels(record(i).channels) > most)
        return too_large(height, width);
    }
    plan_.first_grouped = first_grouped();
    plan_.steps.clear();
    for (int64_t i = 0; i < count(); ++i) {
      if (i == plan_.first_grouped) plan_.first_grouped_step = static_cast<int64_t>(plan_.steps.size());
      plan_.steps.push_back(i);
      for (int64_t j = 0; j < model_.output_count; ++j)
        if (model_.outputs[j] == i && record(i).real == 0) plan_.steps.push_back(~j);
    }
    if (plan_.first_grouped == count()) plan_.first_grouped_step = static_cast<int64_t>(plan_.steps.size());
    plan_.features = 0;
    plan_.feature_places.clear();
    for (int64_t i = 0; i < model_.output_count; ++i) {
      plan_.feature_places.push_back(plan_.features);
      plan_.features += map(model_.outputs[i]).pixels() * record(model_.outputs[i]).channels;
    }
    return nullptr;
  }

  const char* lay_out(int64_t images) {
    const PlannedMap& x = map(0);
    join_parts();
    find_lifetimes();
    return place(images) ? nullptr : too_large(x.height, x.width);
  }

 private:
  int64_t count() const { return static_cast<int64_t>(model_.nodes.size()); }
  const ConvnetNode& node(int64_t i) const { return model_.nodes[static_cast<size_t>(i)]; }
  const ConvnetRecord& record(int64_t i) const { return *node(i).record; }
  PlannedMap& map(int64_t i) { return maps_[static_cast<size_t>(i)]; }
  PlannedMap& root(int64_t i) { return map(map(i).root); }

  const char* measure_node(int64_t i, PlannedMap& m) {
    const ConvnetRecord& r = record(i);
    PlannedMap& in = map(node(i).inputs[0]);
    m.height = in.height;
    m.width = in.width;
    switch (r.kind) {
      case NodeKind::conv:
      case NodeKind::depthwise: {
        const Axis y = convolved(in.height, r.kernel_h, r.stride_h, r.dilation_h, r.pad_top, r.pad_bottom, r.same != 0);
        const Axis x = convolved(in.width, r.kernel_w, r.stride_w, r.dilation_w, r.pad_left, r.pad_right, r.same != 0);
        m.height = y.size;
        m.width = x.size;
        m.pad_top = y.before;
        m.pad_left = x.before;
        if (r.kind == NodeKind::depthwise || r.whole_rows != 0) in.border = std::max(in.border, reach(r, in, m));
        if (r.kind == NodeKind::depthwise)  // taps come in quads, and kernels may read those that there are not
          in.overrun = std::max(in.overrun, 64 + 3 * r.dilation_w * padded_channels(r.channels));
        return r.input_count == 2 ? check_same(i, 1) : nullptr;
      }
      case NodeKind::max:
      case NodeKind::average: {
        const bool adaptive = r.adaptive != 0;
        m.height = adaptive ? r.kernel_h : pooled(in.height, r.kernel_h, r.stride_h, r.pad_top, r.ceil_mode != 0);
        m.width = adaptive ? r.kernel_w : pooled(in.width, r.kernel_w, r.stride_w, r.pad_left, r.ceil_mode != 0);
        const int64_t most = adaptive ? in.pixels() : int64_t{r.kernel_h} * r.kernel_w;
        return r.kind == NodeKind::average && most > kMostWindow
                   ? "images are too large: averages are of at most 4194304 pixels"
                   : nullptr;
      }
      case NodeKind::multiply:
        return map(node(i).inputs[1]).pixels() == 1
                   ? nullptr
                   : complain("node %lld of the packed network multiplies by a map of more than one pixel",
                              static_cast<long long>(i));
      case NodeKind::add:
      case NodeKind::concat:
        for (int64_t j = 1; j < r.input_count; ++j)
          if (const char* problem = check_same(i, j)) return problem;
        return nullptr;
      case NodeKind::resize:
        m.height = resized(in.height, r.size_h, r.factor_h);
        m.width = resized(in.width, r.size_w, r.factor_w);
        return nullptr;
      default:
        return nullptr;
    }
  }

  static const char* too_large(int64_t height, int64_t width) {
    return complain(
        "images of %lld x %lld pixels need too much memory in this network: give smaller ones, or convert "
        "the model again if it is damaged",
        static_cast<long long>(height), static_cast<long long>(width));
  }

  // The border that a kernel without bounds needs around its input.
  static int64_t reach(const ConvnetRecord& r, const PlannedMap& in, const PlannedMap& out) {
    const int64_t below = (out.height - 1) * r.stride_h - out.pad_top + r.dilation_h * (r.kernel_h - 1) + 1 - in.height;
    const int64_t right = (out.width - 1) * r.stride_w - out.pad_left + r.dilation_w * (r.kernel_w - 1) + 1 - in.width;
    return std::max({out.pad_top, out.pad_left, int64_t{r.pad_bottom}, int64_t{r.pad_right}, below, right});
  }

  // That input j is a map of the size of the result: for the second one of a convolution, or else of the first input.
  const char* check_same(int64_t i, int64_t j) {
    const PlannedMap &m = map(i), &other = map(node(i).inputs[j]);
    if (m.height == other.height && m.width == other.width) return nullptr;
    return complain(
        "node %lld of the packed network joins maps of %lld x %lld and %lld x %lld pixels; the network "
        "can't take images of this size",
        static_cast<long long>(i), static_cast<long long>(m.height), static_cast<long long>(m.width),
        static_cast<long long>(other.height), static_cast<long long>(other.width));
  }

  int64_t first_grouped() {
    int64_t first = count();
    while (first > 1 && map(first - 1).pixels() <= kSmallMap) --first;
    return first;
  }

  // Parts of a concatenation are made in their places where that needs no other codes; successive channels of a map are
  // no copy of it.
  void join_parts() {
    for (PlannedMap& m : maps_) m.alone = m.border > 0;
    map(0).alone = true;
    for (int64_t i = 0; i < count(); ++i) {
      if (record(i).real != 0) map(i).alone = true;
      if (is_pointwise(record(i))) {  // whole quads of channels are written
        if (record(i).channels % 4 != 0) map(i).alone = true;
      } else if (record(i).kind == NodeKind::depthwise) {
        map(i).alone = map(node(i).inputs[0]).alone = true;
      }
    }
    for (int64_t i = count() - 1; i > 0; --i)
      if (record(i).kind == NodeKind::concat) join(i);
    for (int64_t i = 1; i < count(); ++i)
      if (record(i).kind == NodeKind::channels && map(i).root == i && !map(i).alone) look_into(i);
    for (int64_t i = 1; i < count(); ++i)  // a root that lies in another one by now
      while (root(i).root != map(i).root) {
        map(i).shift += root(i).shift;
        map(i).root = root(i).root;
      }
  }

  bool same_codes(int64_t a, int64_t b) const {
    return record(a).step == record(b).step && record(a).zero == record(b).zero;
  }

  void join(int64_t concat) {
    const ConvnetNode& n = node(concat);
    int64_t shift = 0;
    for (int64_t j = 0; j < record(concat).input_count; ++j) {
      const int64_t part = n.inputs[j];
      if (!map(part).alone && map(part).root == part && same_codes(part, concat)) {
        map(part).root = map(concat).root;
        map(part).shift = map(concat).shift + shift;
      }
      shift += record(part).channels;
    }
    if (map(concat).alone || map(concat).root != concat) return;
    // All of it may lie in a larger one already.
    const int64_t whole = map(n.inputs[0]).root, begin = map(n.inputs[0]).shift;
    if (whole == concat || whole == n.inputs[0]) return;
    shift = begin;
    for (int64_t j = 0; j < record(concat).input_count; ++j) {
      const int64_t part = n.inputs[j];
      if (map(part).root != whole || map(part).shift != shift || !same_codes(part, concat)) return;
      shift += record(part).channels;
    }
    map(concat).root = whole;
    map(concat).shift = begin;
  }

  void look_into(int64_t i) {
    const int32_t* order = node(i).order;
    for (int32_t c = 1; c < record(i).channels; ++c)
      if (order[c] != order[0] + c) return;
    const int64_t source = node(i).inputs[0];
    map(i).root = map(source).root;
    map(i).shift = map(source).shift + order[0];
  }

  void find_lifetimes() {
    for (int64_t i = 0; i < count(); ++i) map(i).begin = map(i).end = i;
    const auto touch = [&](int64_t what, int64_t when) {
      PlannedMap& m = root(what);
      m.begin = std::min(m.begin, when);
      m.end = std::max(m.end, when);
      m.overrun = std::max(m.overrun, map(what).overrun);
      if (when >= plan_.first_grouped) m.grouped = true;
    };
    for (int64_t i = 0; i < count(); ++i) {
      touch(i, i);
      for (int64_t j = 0; j < record(i).input_count; ++j) touch(node(i).inputs[j], i);
    }
    // What the images of a group leave for the nodes that take them together lives from the first image on.
    for (int64_t i = 0; i < count(); ++i)
      if (map(i).grouped && map(i).begin < plan_.first_grouped) map(i).begin = 0;
  }

  // False: the maps of an image would take more than they may.
  bool place(int64_t images) {
    const int64_t most = most_bytes(map(0).pixels());
    std::vector<int64_t>& roots = plan_.roots;
    roots.clear();
    for (int64_t i = 0; i < count(); ++i)
      if (map(i).root == i && record(i).real == 0) roots.push_back(i);
    std::sort(roots.begin(), roots.end(), [&](int64_t a, int64_t b) {
      return map(a).begin < map(b).begin || (map(a).begin == map(b).begin && a < b);
    });
    plan_.group.clear();
    plan_.image.clear();
    for (const int64_t i : roots) {
      PlannedMap& m = map(i);
      if (m.border > kMostBorder) return false;
      const int64_t pixel = padded_channels(record(i).channels);
      m.bytes = (m.height + 2 * m.border) * (m.width + 2 * m.border) * pixel;
      const int64_t copies = m.grouped ? images : 1;
      if (m.bytes > most) return false;
      const int64_t bytes = (m.bytes * copies + m.overrun + 63) / 64 * 64;
      Arena& arena = m.grouped ? plan_.group : plan_.image;
      m.place = arena.take(bytes, m.begin, m.end);
      if (arena.bytes() > most * copies) return false;
    }
    return true;
  }

  const ConvnetModel& model_;
  ConvnetPlan& plan_;
  std::vector<PlannedMap>& maps_;
};

}  // namespace

const char* ConvnetPlan::measure(const ConvnetModel& model, int64_t height, int64_t width) {
  return Planner(model, *this).measure(height, width);
}

const char* ConvnetPlan::lay_out(const ConvnetModel& model, int64_t images) {
  return Planner(model, *this).lay_out(images);
}

bool ConvnetPlan::is_view(const ConvnetModel& model, int64_t node) const {
  const ConvnetNode& n = model.nodes[static_cast<size_t>(node)];
  const PlannedMap &m = maps[static_cast<size_t>(node)], &source = maps[static_cast<size_t>(n.inputs[0])];
  return m.root == source.root && m.shift == source.shift + n.order[0] && m.root != node;
}

}  // namespace kdnative::cpu
