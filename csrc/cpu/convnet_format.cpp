#include "convnet_format.h"

#include <cmath>
#include <cstring>

#include "packed.h"

namespace kdnative::cpu {
namespace {

constexpr const char* kSizes = "the packed network has impossible sizes; convert the model again";
constexpr const char* kDamaged = "the packed network is damaged (a section lies outside it); convert the model again";
constexpr int32_t kMostChannels = 1 << 20, kMostNodes = 1 << 16, kMostPixels = 1024;

bool within(int32_t value, int32_t low, int32_t high) { return value >= low && value <= high; }
bool positive(double value) { return value > 0 && std::isfinite(value); }

class Reader {
 public:
  Reader(const void* p, int64_t bytes) : base_(static_cast<const uint8_t*>(p)), bytes_(bytes) {}

  const char* read(ConvnetModel* m) {
    ConvnetHeader h;
    if (const char* problem = read_header(&h)) return problem;
    if (!within(h.nodes, 1, kMostNodes) || !within(h.link_count, 0, INT32_MAX / 8) || !within(h.outputs, 1, kMostNodes))
      return kSizes;
    const auto* records = section<ConvnetRecord>(h.node_table, h.nodes);
    const auto* links = section<int32_t>(h.links, int64_t{h.link_count} + h.outputs);
    if (damaged_) return kDamaged;
    m->outputs = links + h.link_count;
    m->output_count = h.outputs;
    m->nodes.resize(static_cast<size_t>(h.nodes));
    for (int32_t i = 0; i < h.nodes; ++i) {
      const ConvnetRecord& r = records[i];
      if (r.inputs < 0 || r.input_count < 0 || r.inputs > h.link_count - r.input_count) return kSizes;
      ConvnetNode& node = m->nodes[static_cast<size_t>(i)];
      node = {};
      node.record = &r;
      node.inputs = links + r.inputs;
      for (int32_t j = 0; j < r.input_count; ++j)
        if (!within(node.inputs[j], 0, i - 1) || records[node.inputs[j]].real != 0) return kLinks;
      if ((i == 0) != (r.kind == NodeKind::input)) return kLinks;
      if (const char* problem = read_node(records, &node)) return problem;
    }
    for (int64_t i = 0; i < m->output_count; ++i)
      if (!within(m->outputs[i], 0, h.nodes - 1)) return kLinks;
    for (int32_t i = 0; i < h.nodes; ++i) {
      int64_t returned = 0;  // real numbers have one place
      for (int64_t j = 0; j < m->output_count; ++j) returned += m->outputs[j] == i;
      if (records[i].real != 0 && returned != 1) return kLinks;
    }
    return nullptr;
  }

 private:
  static constexpr const char* kLinks = "the packed network has nodes whose inputs there are not; convert it again";

  const char* read_header(ConvnetHeader* h) const {
    if (bytes_ < static_cast<int64_t>(sizeof *h))
      return "the packed network is shorter than its header; convert the model again";
    if (reinterpret_cast<uintptr_t>(base_) % kAlignment != 0)
      return "the packed network is not 8-byte aligned (a view into another tensor?); clone() it";
    std::memcpy(h, base_, sizeof *h);
    if (h->magic != kConvnetMagic)
      return "the tensor is not a packed network of convolutions (wrong magic number); build it with kdnative.convert_";
    if (h->version != 1) return "the packed network has an unknown version; convert the model again with this release";
    return h->bytes == bytes_ ? nullptr : "the packed network is truncated or has trailing bytes";
  }

  template <typename T>
  const T* section(int64_t offset, int64_t count) {
    const int64_t size = count * static_cast<int64_t>(sizeof(T));
    if (offset < static_cast<int64_t>(sizeof(ConvnetHeader)) || offset % 64 != 0 || count < 0 || offset > bytes_ ||
        size > bytes_ - offset) {
      damaged_ = true;
      return nullptr;
    }
    return reinterpret_cast<const T*>(base_ + offset);
  }

  const char* read_node(const ConvnetRecord* records, ConvnetNode* node) {
    const ConvnetRecord& r = *node->record;
    if (!within(r.channels, 1, kMostChannels) || !within(r.real, 0, 1)) return kSizes;
    if (r.real != 0 && r.kind != NodeKind::conv) return kLinks;
    if (r.real == 0 && (!positive(r.step) || !within(r.zero, 0, 255))) return kSizes;
    const auto inputs = [&](int32_t count) { return r.input_count == count; };
    const auto channels = [&](int32_t i) { return records[node->inputs[i]].channels; };
    const auto same_channels = [&] {
      for (int32_t i = 0; i < r.input_count; ++i)
        if (channels(i) != r.channels) return false;
      return true;
    };
    switch (r.kind) {
      case NodeKind::input:
        if (!inputs(0)) return kLinks;
        node->scales = section<float>(r.scales, r.channels);
        node->biases = section<float>(r.biases, r.channels);
        return damaged_ ? kDamaged : nullptr;
      case NodeKind::conv:
        if (!inputs(1) && !(inputs(2) && channels(1) == r.channels && r.real == 0)) return kLinks;
        return read_conv(channels(0), node);
      case NodeKind::depthwise:
        if (!inputs(1) || !same_channels()) return kLinks;
        return read_depthwise(node);
      case NodeKind::max:
      case NodeKind::average:
        if (!inputs(1) || !same_channels()) return kLinks;
        return read_pool(r);
      case NodeKind::add:
        if (!inputs(2) || !same_channels()) return kLinks;
        return r.finish == Finish::clamp || r.finish == Finish::table ? read_epilogue(node) : kSizes;
      case NodeKind::multiply:
        return inputs(2) && same_channels() ? nullptr : kLinks;
      case NodeKind::concat: {
        int64_t sum = 0;
        for (int32_t i = 0; i < r.input_count; ++i) sum += channels(i);
        if (sum != r.channels) return kLinks;
        if (r.table != 0) node->table = section<uint8_t>(r.table, int64_t{256} * r.input_count);
        return damaged_ ? kDamaged : nullptr;
      }
      case NodeKind::channels:
        if (!inputs(1)) return kLinks;
        node->order = section<int32_t>(r.order, r.channels);
        if (damaged_) return kDamaged;
        for (int32_t c = 0; c < r.channels; ++c)
          if (!within(node->order[c], 0, channels(0) - 1)) return kSizes;
        return nullptr;
      case NodeKind::lookup:
        if (!inputs(1) || !same_channels()) return kLinks;
        node->table = section<uint8_t>(r.table, 256);
        return damaged_ ? kDamaged : nullptr;
      case NodeKind::resize: {
        if (!inputs(1) || !same_channels()) return kLinks;
        const bool sizes = r.size_h > 0 && r.size_w > 0, factors = positive(r.factor_h) && positive(r.factor_w);
        return sizes || (r.size_h == 0 && r.size_w == 0 && factors) ? nullptr : kSizes;
      }
    }
    return "the packed network has a node of an unknown kind; convert the model again with this release";
  }

  static bool sound_window(const ConvnetRecord& r) {
    const bool sizes = within(r.kernel_h, 1, kMostTaps) && within(r.kernel_w, 1, kMostTaps) &&
                       int64_t{r.kernel_h} * r.kernel_w <= kMostTaps;
    const bool steps = within(r.stride_h, 1, kMostTaps) && within(r.stride_w, 1, kMostTaps) &&
                       within(r.dilation_h, 1, kMostPixels) && within(r.dilation_w, 1, kMostPixels);
    return sizes && steps && within(r.pad_top, 0, kMostPixels) && within(r.pad_bottom, 0, kMostPixels) &&
           within(r.pad_left, 0, kMostPixels) && within(r.pad_right, 0, kMostPixels);
  }

  static const char* read_pool(const ConvnetRecord& r) {
    if (r.adaptive != 0) return within(r.kernel_h, 1, kMostTaps) && within(r.kernel_w, 1, kMostTaps) ? nullptr : kSizes;
    // As torch has it: then every window has a pixel of the map.
    const bool inside = sound_window(r) && r.pad_top <= r.kernel_h / 2 && r.pad_left <= r.kernel_w / 2;
    const bool even = r.pad_top == r.pad_bottom && r.pad_left == r.pad_right;
    return inside && even && r.dilation_h == 1 && r.dilation_w == 1 ? nullptr : kSizes;
  }

  const char* read_epilogue(ConvnetNode* node) {
    const ConvnetRecord& r = *node->record;
    if (!within(static_cast<int32_t>(r.finish), 0, 3) || (r.finish == Finish::real) != (r.real != 0)) return kSizes;
    if (!within(r.low, 0, 255) || !within(r.high, r.low, 255)) return kSizes;
    if (r.finish == Finish::table) node->table = section<uint8_t>(r.table, 256);
    node->epilogue = {r.finish, r.low, r.high, r.out_scale, r.out_zero, node->table, nullptr, r.residual_scale};
    return damaged_ ? kDamaged : nullptr;
  }

  const char* read_conv(int32_t inputs, ConvnetNode* node) {
    const ConvnetRecord& r = *node->record;
    if (!sound_window(r) || r.tiles < 1 || r.lanes < 16) return kSizes;
    if (r.whole_rows != 0 && (node->inputs[0] != 0 || inputs > 4 || r.dilation_w != 1)) return kSizes;
    const auto* tiles = section<ConvTile>(r.tile_table, r.tiles);
    PackedConv& w = node->conv;
    w = {tiles,
         r.tiles,
         section<int8_t>(r.weights, r.weight_bytes),
         section<int32_t>(r.start, r.lanes),
         section<int32_t>(r.start_signed, r.lanes),
         section<float>(r.scales, r.lanes),
         section<float>(r.biases, r.lanes),
         r.kernel_h,
         r.kernel_w,
         r.stride_h,
         r.stride_w,
         r.dilation_h,
         r.dilation_w,
         r.pad_top,
         r.pad_left,
         r.whole_rows != 0};
    if (damaged_) return kDamaged;
    const int64_t taps = w.whole_rows ? r.kernel_h : int64_t{r.kernel_h} * r.kernel_w;
    int64_t deepest = 0;
    for (int32_t t = 0; t < r.tiles; ++t) {
      const ConvTile& tile = tiles[t];
      const int64_t lanes = 16 * int64_t{tile.vectors};
      if (!within(tile.vectors, 1, 4) || !within(tile.outputs, 1, static_cast<int32_t>(lanes))) return kSizes;
      if (tile.first < 0 || tile.first > r.channels - tile.outputs) return kSizes;
      if (tile.depth < 4 || tile.depth % 4 != 0 || tile.channel < 0) return kSizes;
      // Taps may end up to three bytes behind the last channel, where weights are 0.
      if (w.whole_rows ? tile.depth != 4 * r.kernel_w || tile.channel != 0
                       : tile.depth > padded_channels(inputs) || tile.channel > inputs + 3 - tile.depth)
        return kSizes;
      if (tile.lane < 0 || tile.lane % 16 != 0 || tile.lane > r.lanes - lanes) return kSizes;
      if (tile.weights < 0 || tile.weights % 64 != 0 || tile.weights > r.weight_bytes - taps * tile.depth * lanes)
        return kSizes;
      deepest = tile.depth > deepest ? tile.depth : deepest;
    }
    node->zeros = section<uint8_t>(r.zeros, deepest + 64);
    return damaged_ ? kDamaged : read_epilogue(node);
  }

  const char* read_depthwise(ConvnetNode* node) {
    const ConvnetRecord& r = *node->record;
    if (!sound_window(r)) return kSizes;
    const int64_t pixel = padded_channels(r.channels);
    int64_t unit = 64;
    while (pixel % unit != 0) unit /= 2;
    const int64_t period = pixel / unit, groups = (r.kernel_w + 3) / 4;
    if (r.lanes != 64 * period) return kSizes;
    node->depthwise = {pixel,
                       period,
                       section<int8_t>(r.weights, period * r.kernel_h * groups * 256),
                       section<int32_t>(r.start, r.lanes),
                       section<int32_t>(r.start_signed, r.lanes),
                       section<float>(r.scales, r.lanes),
                       section<float>(r.biases, r.lanes),
                       r.kernel_h,
                       r.kernel_w,
                       r.stride_h,
                       r.stride_w,
                       r.dilation_h,
                       r.dilation_w,
                       r.pad_top,
                       r.pad_left};
    return damaged_ ? kDamaged : read_epilogue(node);
  }

  const uint8_t* base_;
  int64_t bytes_;
  bool damaged_ = false;
};

}  // namespace

const char* read_convnet(const void* p, int64_t bytes, ConvnetModel* model) { return Reader(p, bytes).read(model); }

}  // namespace kdnative::cpu
