// The buffer of a network of convolutions: built by kdnative/formats/convnet/pack.py, only read here. Offsets are bytes
// from the start of the buffer and multiples of 64; every number is little-endian.
#pragma once

#include <cstdint>
#include <vector>

#include "convolution.h"

namespace kdnative::cpu {

constexpr int32_t kConvnetMagic = 0x4b444331;  // "KDC1"

struct ConvnetHeader {  // the first 128 bytes
  int32_t magic, version;
  int64_t bytes;  // size of the whole buffer
  int32_t nodes, link_count, outputs, unused;
  int64_t node_table;  // ConvnetRecord [nodes]
  int64_t links;  // int32 [link_count + outputs]: the inputs of all nodes, then the nodes whose values are returned
  int64_t reserved[10];
};
static_assert(sizeof(ConvnetHeader) == 128, "the header is 128 bytes on every machine");

enum class NodeKind : int32_t {
  input = 0,
  conv = 1,
  depthwise = 2,
  max = 3,
  average = 4,
  add = 5,
  multiply = 6,
  concat = 7,
  channels = 8,
  lookup = 9,
  resize = 10,
};

struct ConvnetRecord {
  NodeKind kind;
  int32_t channels;
  int32_t real;                 // 1: real numbers, an output of the network
  int32_t zero;                 // zero point of the result
  int32_t inputs, input_count;  // links [inputs, inputs + input_count): earlier nodes
  Finish finish;
  int32_t low, high;
  int32_t whole_rows;
  int32_t same;  // 1: padding by the size of the input, as TensorFlow does it
  int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;  // of adaptive pooling the kernel is the size
  int32_t pad_top, pad_bottom, pad_left, pad_right;
  int32_t adaptive, ceil_mode, count_pad;           // pooling
  int32_t tiles, lanes;                             // convolutions
  int32_t bilinear, align_corners, size_h, size_w;  // resizing; sizes of 0: by the factors
  float out_scale, out_zero, residual_scale;        // Epilogue8; AddCodesFn has residual_scale as scale_b
  float scale_a, offset;                            // AddCodesFn
  float scale;                                      // MultiplyCodesFn
  double step;                                      // of codes of the result
  double factor_h, factor_w;
  int64_t table;       // uint8 [256]: Finish::table and lookups; of a concatenation [input_count, 256], or 0
  int64_t tile_table;  // ConvTile [tiles]
  int64_t weights, weight_bytes;
  int64_t start, start_signed;  // int32 [lanes]
  int64_t scales, biases;       // float [lanes]; of the input [channels]
  int64_t zeros;                // zero points of the input: the deepest tap and 64 more bytes
  int64_t order;                // int32 [channels]
  int64_t unused;
};
static_assert(sizeof(ConvnetRecord) == 256, "a record is 256 bytes on every machine");

// A record resolved to pointers. Paddings of the convolutions are for whoever knows the sizes of maps to fill in.
struct ConvnetNode {
  const ConvnetRecord* record;
  const int32_t* inputs;
  PackedConv conv;
  PackedDepthwise depthwise;
  Epilogue8 epilogue;  // without residual
  const uint8_t *table, *zeros;
  const int32_t* order;
  const float *scales, *biases;  // of the input
};

struct ConvnetModel {
  std::vector<ConvnetNode> nodes;
  const int32_t* outputs;
  int64_t output_count;
};

constexpr int64_t padded_channels(int64_t channels) { return (channels + 3) / 4 * 4; }

constexpr int32_t kMostTaps = 4096;

// nullptr when `bytes` at `p`, which nobody needs to trust, are a network that kernels can run without leaving the
// buffer; otherwise what is wrong. Sizes of maps come later (convnet_plan.h).
const char* read_convnet(const void* p, int64_t bytes, ConvnetModel* model);

}  // namespace kdnative::cpu
