// Where the parts of a packed w8a8 linear lie: the same as in kdnative/formats/gpu/w8a8.py. The buffer has no header,
// as the host can't read memory of the device: all follows from the sizes of the layer and from what it has.
#pragma once

#include <cstdint>

namespace gpu {

constexpr int64_t kW8A8PadK = 128;  // rows of codes, of the weight and of activations, are padded to this
// Bytes of a padded row; with more inputs, sums of int8 products could leave int32 (csrc/cpu/packed.h).
constexpr int64_t kW8A8MostPadded = (133144 + kW8A8PadK - 1) / kW8A8PadK * kW8A8PadK;

struct W8A8Form {
  bool bias, input_scale;
  int64_t group;  // of integer group scales whose products with 4-bit codes the weight is; 0: an 8-bit weight
};

// Offsets in bytes, each a multiple of 256; -1: there is none.
struct W8A8Layout {
  int64_t k_pad;
  int64_t codes;              // int8 [n, k_pad], 0 from column k on
  int64_t scale;              // float [n]
  int64_t bias;               // float [n]
  int64_t input_scale;        // float [k]
  int64_t group_scale, zero;  // uint8 and int8 [n, k / group], which no kernel reads: they give the 4 bits back
  int64_t bytes;              // of the whole buffer
};

inline W8A8Layout w8a8_layout(int64_t n, int64_t k, const W8A8Form& form) {
  W8A8Layout layout{};
  layout.k_pad = (k + kW8A8PadK - 1) / kW8A8PadK * kW8A8PadK;
  const auto place = [&layout](bool present, int64_t bytes) {
    if (!present) return int64_t{-1};
    const int64_t at = layout.bytes;
    layout.bytes += (bytes + 255) / 256 * 256;
    return at;
  };
  layout.codes = place(true, n * layout.k_pad);
  layout.scale = place(true, n * 4);
  layout.bias = place(form.bias, n * 4);
  layout.input_scale = place(form.input_scale, k * 4);
  const int64_t groups = form.group > 0 ? k / form.group : 0;
  layout.group_scale = place(groups > 0, n * groups);
  layout.zero = place(groups > 0, n * groups);
  return layout;
}

}  // namespace gpu
