// Packed weights of 4 or 8 bits for float activations: one buffer without a header, since a host can't read device
// memory; where its sections begin follows from the shape. kdnative/formats/gpu/w4a16.py has the same offsets.
//
// Codes lie as mma.m16n8k16 wants its fragments. A unit is 32 outputs and 32 inputs, kUnitVectors vectors of 16 bytes
// for each lane, vector after vector. Lane l = 4 g + t. Word j of a vector belongs to output outputs_of(j, g) of the
// 32, and slot s = 0 .. 3 of the unit to the inputs 8 s + 2 t + e, e = 0 or 1:
//   4 bits: one vector; the code of (s, e) is nibble s + 4 e of word j.
//   8 bits: vector s / 2; the code of (s, e) is byte s % 2 + 2 e of word j.
// So one mask takes a pair of codes 16 bits apart, which the bits of a float make a pair of floats. A code is u = q +
// 2^(bits - 1). The units of 32 outputs lie one after the other along the inputs. Outputs are padded to 32 and inputs
// to 32, with codes that stand for 0.
#pragma once
#include "gpu/values.h"

namespace gpu {

constexpr int kUnit = 32;  // outputs, and inputs

GPU_FN constexpr int unit_bytes(int bits) { return kUnit * kUnit * bits / 8; }

// Which of the 32 outputs column g of the j-th product of a warp is. The four columns 2 t, 2 t + 1 of the products 2 i
// and 2 i + 1 are neighbours, so that a lane stores four outputs at once, and four lanes a whole sector.
GPU_FN constexpr int output_of(int j, int g) { return (j >> 1) * 16 + (g >> 1) * 4 + (j & 1) * 2 + (g & 1); }

#ifndef __CUDACC__
struct W4A16Form {
  int bits;       // 4 or 8
  int64_t group;  // inputs that share a scale, 0: all of them
  bool zeros, bias, input_scales;
};

// Offsets in bytes, each a multiple of 256; -1: there is none.
struct W4A16Layout {
  int64_t codes;        // [strips of 32 outputs, units, unit_bytes]
  int64_t scale;        // float [groups, 32 strips]
  int64_t zero;         // uint8 [groups, strips, g, j]: zero points as codes
  int64_t bias;         // float [32 strips]
  int64_t input_scale;  // float [32 units]
  int64_t bytes;        // of the whole buffer
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline W4A16Layout w4a16_layout(int64_t n, int64_t k, const W4A16Form& form) {
  const int64_t strips = ceil_div(n, kUnit), units = ceil_div(k, kUnit), groups = form.group == 0 ? 1 : k / form.group;
  W4A16Layout layout{};
  const auto place = [&layout](bool present, int64_t bytes) {
    if (!present) return int64_t{-1};
    const int64_t at = layout.bytes;
    layout.bytes += ceil_div(bytes, 256) * 256;
    return at;
  };
  layout.codes = place(true, strips * units * unit_bytes(form.bits));
  layout.scale = place(true, groups * strips * kUnit * 4);
  layout.zero = place(form.zeros, groups * strips * kUnit);
  layout.bias = place(form.bias, strips * kUnit * 4);
  layout.input_scale = place(form.input_scales, units * kUnit * 4);
  return layout;
}
#endif

}  // namespace gpu
