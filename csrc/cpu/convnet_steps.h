// The steps of a network of convolutions on some images: one for each node, and one for each map that is returned.
#pragma once

#include <algorithm>

#include "convnet.h"
#include "convnet_plan.h"

namespace kdnative::cpu {

// Images of a group that go through a step together: one, where maps of a single image are kept.
struct Span {
  int64_t first, count;
};

// The share of one task: units of a step (rows of the result over all images of the span; pixels of a convolution), and
// column tiles of a convolution.
struct Share {
  int64_t begin, end, tile_begin, tile_end;
};

// The images of a group on their way through the network. Everything is set before the team starts and only read by it,
// except the maps.
struct ConvnetGroup {
  const Kernels& kernels;
  const ConvnetModel& model;
  const ConvnetPlan& plan;
  const ConvnetInputs& in;
  float* out;
  int64_t first = 0;              // of all images
  int64_t images = 0;             // of the group
  uint8_t* group_maps = nullptr;  // plan.group.bytes()
  uint8_t* image_maps = nullptr;  // [workers, plan.image.bytes()]
  bool* unsound = nullptr;        // [images]: the image holds NaN

  int64_t nodes() const { return static_cast<int64_t>(model.nodes.size()); }
  const ConvnetNode& node(int64_t i) const { return model.nodes[static_cast<size_t>(i)]; }
  const PlannedMap& planned(int64_t i) const { return plan.maps[static_cast<size_t>(i)]; }

  // Of a step (ConvnetPlan::steps) for an image.
  int64_t units(int64_t step) const {
    const PlannedMap& m = planned(node_of(step));
    return is_conv(step) ? m.pixels() : m.height;
  }
  int64_t tiles(int64_t step) const { return is_conv(step) ? node(step).record->tiles : 1; }
  double work(int64_t step) const;  // about its time, in multiply-adds

  // A task: its share of a step, on a worker's maps.
  void run(int64_t step, const Span& span, const Share& share, int64_t worker) const;

  bool is_conv(int64_t step) const { return step >= 0 && node(step).record->kind == NodeKind::conv; }
  int64_t node_of(int64_t step) const { return step < 0 ? model.outputs[~step] : step; }

 private:
  Map map(int64_t i, const Span& span, int64_t worker) const;
  void fill_border(int64_t i, const Map& m) const;
  void quantize(const Map& out, const Span& span, const Share& share) const;
  void convolve(int64_t i, const Span& span, const Share& share, int64_t worker) const;
  void filter(int64_t i, const Map& in, const Map& out, const Share& share) const;  // depthwise
  void pool(int64_t i, const Map& in, const Map& out, const Share& share) const;
  void join(int64_t i, const Span& span, const Map& out, const Share& share, int64_t worker) const;
  void resize(int64_t i, const Map& in, const Map& out, const Share& share) const;
  void give_back(int64_t i, const Span& span, const Share& share, int64_t worker) const;
};

}  // namespace kdnative::cpu
