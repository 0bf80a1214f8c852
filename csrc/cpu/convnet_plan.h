// What a network of convolutions needs for images of one size: sizes of maps, where they lie in memory, and which part
// of it takes images one by one. Large maps are made image by image, so that they stay in the nearer caches; from some
// node on maps are so small, and weights so large, that a weight is better read once for the images of a group.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "arena.h"
#include "convnet_format.h"

namespace kdnative::cpu {

struct PlannedMap {
  int64_t height, width;
  int64_t border;      // rows and columns of zero points around it
  int64_t overrun;     // bytes behind it that kernels may read
  int64_t root;        // the node whose memory it lies in: its own, or that of a concatenation or a larger map
  int64_t shift;       // bytes of a pixel of the root before it
  bool alone;          // it can't lie in another map, because its pixels have to follow one another, or for its border
  bool grouped;        // of a root: every image of a group has one; else there is one, of the image that is in work
  int64_t bytes;       // of a root: of an image
  int64_t place;       // of a root: in its arena
  int64_t begin, end;  // of a root: first and last node that touch it
  int64_t pad_top, pad_left;  // of a convolution, when they depend on the size

  int64_t pixels() const { return height * width; }
};

// A depthwise convolution that sees one pixel: it needs no border, and pixels may lie apart.
inline bool is_pointwise(const ConvnetRecord& r) {
  return r.kind == NodeKind::depthwise && r.kernel_h == 1 && r.kernel_w == 1 && r.stride_h == 1 && r.stride_w == 1 &&
         r.pad_top == 0 && r.pad_bottom == 0 && r.pad_left == 0 && r.pad_right == 0;
}

struct ConvnetPlan {
  std::vector<PlannedMap> maps;  // of each node
  // In the order of execution: node i, or ~o, which gives output o of the network back to the caller.
  std::vector<int64_t> steps;
  int64_t first_grouped;                // nodes from here on take all images of a group together,
  int64_t first_grouped_step;           // and steps
  std::vector<int64_t> feature_places;  // of each output among the values of an image
  Arena group, image;                   // of the maps of a group, and of one image
  std::vector<int64_t> roots;           // maps with a place, in the order of their first use
  int64_t features;                     // values of an image, of all outputs

  // Sizes of maps, steps and features. nullptr, or what is wrong, in words that are valid until the next call on this
  // thread.
  const char* measure(const ConvnetModel& model, int64_t height, int64_t width);
  // Then the memory, for groups of so many images.
  const char* lay_out(const ConvnetModel& model, int64_t images);

  const PlannedMap& root_of(int64_t node) const {
    return maps[static_cast<size_t>(maps[static_cast<size_t>(node)].root)];
  }
  int64_t pixel_bytes(const ConvnetModel& model, int64_t node) const {
    return padded_channels(model.nodes[static_cast<size_t>(maps[static_cast<size_t>(node)].root)].record->channels);
  }
  // Of an output that is real numbers.
  int64_t feature_of(const ConvnetModel& model, int64_t node) const {
    const int32_t* const end = model.outputs + model.output_count;
    return feature_places[static_cast<size_t>(std::find(model.outputs, end, node) - model.outputs)];
  }
  // Whether a part of a concatenation, `shift` bytes behind its beginning, is made there.
  bool in_place(int64_t part, int64_t concat, int64_t shift) const {
    const PlannedMap &m = maps[static_cast<size_t>(part)], &whole = maps[static_cast<size_t>(concat)];
    return m.root != part && m.root == whole.root && m.shift == whole.shift + shift;
  }
  // Whether the result of a `channels` node is a part of its input.
  bool is_view(const ConvnetModel& model, int64_t node) const;
};

}  // namespace kdnative::cpu
