// Convolutions by dot products of Advanced SIMD: blocks of up to 6 pixels x 16 channels. A tile is as many groups of 16
// channels as it has vectors; of a tile of four, a group is four lanes of each vector.
//
// Product is the instruction:
//   kSigned                     whether it multiplies q - 128
//   Operand, operand(codes)     sixteen codes of a pixel, as add() wants them
//   add<quad>(sum, weights, x)  sum + the products of four lanes of weights and one quad of x
//
// Include it after vec_neon.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "../instruction_sets.h"
#include "../neon/dot.h"
#include "blocks.h"
#include "codes_neon.h"
#include "conv.h"
#include "requantize.h"

namespace kdnative::cpu {
namespace {

constexpr int kNeonConvRows = 6;  // 24 sums, 6 registers of activations, 2 of weights: all 32

inline uint8x16_t repeat_quad(const uint8_t* p) {
  uint32_t quad;
  std::memcpy(&quad, p, sizeof(quad));
  return vreinterpretq_u8_u32(vdupq_n_u32(quad));
}

// A group of 16 channels of a tile: four registers, of which register j begins with lane `first` + j * step.
struct ChannelGroup {
  int64_t first, step;

  ChannelGroup(int64_t vectors, int64_t group)
      : first(vectors == 4 ? 4 * group : 16 * group), step(vectors == 4 ? 16 : 4) {}
  int64_t lane(int j) const { return first + j * step; }
};

template <typename Product, int rows>
inline void multiply(const ConvBlock& b, const ChannelGroup& group, int32x4_t (&sum)[rows][4]) {
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < 4; ++j) sum[i][j] = vld1q_s32(b.start + i * b.start_step + group.lane(j));
  const int64_t next = 64 * b.tile.vectors;  // bytes of a quad of channels
  const int8_t* w = b.weights + 4 * group.first;
  const auto add = [&](auto quad, const auto(&x)[rows]) {
    for (int j = 0; j < 4; ++j) {
      const int8x16_t weights = vld1q_s8(w + 4 * j * group.step);
      for (int i = 0; i < rows; ++i) sum[i][j] = Product::template add<quad.index>(sum[i][j], weights, x[i]);
    }
    w += next;
  };
  const uint8_t* const* pixel = b.pixel;
  for (int64_t tap = 0; tap < b.taps; ++tap, pixel += b.tap_step) {
    int64_t k = 0;
    typename Product::Operand x[rows];
    for (; k + 16 <= b.tile.depth; k += 16) {
      for (int i = 0; i < rows; ++i) x[i] = Product::operand(vld1q_u8(pixel[i] + k));
      neon::for_lanes([&](auto quad) { add(quad, x); });
    }
    for (; k < b.tile.depth; k += 4) {
      for (int i = 0; i < rows; ++i) x[i] = Product::operand(repeat_quad(pixel[i] + k));
      add(neon::Lane<0>{}, x);
    }
  }
}

template <bool swish, int rows>
inline void store_codes(const ConvBlock& b, const ChannelGroup& group, int64_t channel,
                        const int32x4_t (&sum)[rows][4]) {
  const Requantizer requantizer(b.e);
  for (int i = 0; i < rows; ++i) {
    Vec v[4];
    for (int j = 0; j < 4; ++j)
      v[j] = Vec{vcvtq_f32_s32(sum[i][j])} * Vec::load(b.scale + group.lane(j)) + Vec::load(b.bias + group.lane(j));
    if (b.e.residual != nullptr) {
      Vec r[4];
      unpack(Codes::load(b.residual[i] + b.tile.first + channel), r);
      for (int j = 0; j < 4; ++j) v[j] = v[j] + r[j] * Vec::set1(b.e.residual_scale);
    }
    requantizer.finish<swish>(v).store(b.out[i] + b.tile.first + channel, b.tile.outputs - channel);
  }
}

template <typename Product, int rows>
[[gnu::noinline]] void conv_block(const ConvBlock& b) {
  for (int64_t g = 0; g < b.tile.vectors; ++g) {
    const ChannelGroup group(b.tile.vectors, g);
    int32x4_t sum[rows][4];
    multiply<Product, rows>(b, group, sum);
    if (b.sums != nullptr) {
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < 4; ++j) vst1q_s32(b.sums + 16 * b.tile.vectors * i + group.lane(j), sum[i][j]);
    } else if (b.e.finish == Finish::hard_swish) {
      store_codes<true, rows>(b, group, 16 * g, sum);
    } else {
      store_codes<false, rows>(b, group, 16 * g, sum);
    }
  }
}

template <typename Product>
struct ConvKernel {
  static constexpr int kRows[] = {0, kNeonConvRows, kNeonConvRows, kNeonConvRows, kNeonConvRows};
  static constexpr bool kSigned = Product::kSigned;
  static constexpr int64_t kMostQuads = 0;

  static void sort(const int8_t*, int64_t, int64_t, uint8_t*) {}

  static void run(int64_t, int64_t rows, const ConvBlock& b) {
    with_rows<kNeonConvRows>(rows, [&](auto n) { conv_block<Product, n.count>(b); });
  }

  static void look_up(const ConvBlock& b, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i)
      neon::look_up(b.out[i] + b.tile.first, b.tile.outputs, b.e.table, b.out[i] + b.tile.first);
  }
};

}  // namespace
}  // namespace kdnative::cpu
