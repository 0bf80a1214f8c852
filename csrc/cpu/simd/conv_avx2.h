// Convolutions in 256-bit registers: blocks of 12 sums, 6 pixels x 16 channels, 3 x 32 or 2 x 48. A tile of 64 channels
// is two halves of 32, which its order makes whole: lanes 0 to 7 of all its vectors are the first 32 channels.
//
// Product is the instruction:
//   kSigned                    whether it multiplies q - 128
//   Operand, operand(quad)     four codes of a pixel, in every lane, as add() wants them
//   add(sum, operand, w)       sum + the products of eight lanes
//
// Include it after vec_avx2.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../instruction_sets.h"
#include "blocks.h"
#include "codes_avx2.h"
#include "conv.h"
#include "requantize.h"

namespace kdnative::cpu {
namespace {

inline __m256i quad_of(const uint8_t* p) {
  int32_t quad;
  std::memcpy(&quad, p, sizeof(quad));
  return _mm256_set1_epi32(quad);
}

inline const __m256i* lanes_of(const void* p) { return static_cast<const __m256i*>(p); }

// Which lanes of a tile a block has at once: register j begins with lane at(half, j).
template <int vectors>
struct Lanes {
  static constexpr int kCount = vectors == 4 ? 4 : 2 * vectors;
  static constexpr int kHalves = vectors == 4 ? 2 : 1;
  static constexpr int at(int half, int j) { return vectors == 4 ? 16 * j + 8 * half : 8 * j; }  // first lane
};

template <typename Product, int rows, int vectors>
inline void multiply(const ConvBlock& b, int half, __m256i (&sum)[rows][Lanes<vectors>::kCount]) {
  using L = Lanes<vectors>;
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 6
    for (int j = 0; j < L::kCount; ++j)
      sum[i][j] = _mm256_loadu_si256(lanes_of(b.start + i * b.start_step + L::at(half, j)));
  const int8_t* w = b.weights;
  const uint8_t* const* pixel = b.pixel;
  for (int64_t tap = 0; tap < b.taps; ++tap, pixel += b.tap_step) {
    const uint8_t* x[rows];
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) x[i] = pixel[i];
    for (int64_t k = 0; k < b.tile.depth; k += 4, w += 64 * vectors) {
      typename Product::Operand quad[rows];
#pragma GCC unroll 6
      for (int i = 0; i < rows; ++i) quad[i] = Product::operand(quad_of(x[i] + k));
#pragma GCC unroll 6
      for (int j = 0; j < L::kCount; ++j) {
        const __m256i weights = _mm256_load_si256(lanes_of(w + 4 * L::at(half, j)));
#pragma GCC unroll 6
        for (int i = 0; i < rows; ++i) sum[i][j] = Product::add(sum[i][j], quad[i], weights);
      }
    }
  }
}

// Four registers of sums become 32 codes: channels from `first` of the tile on, of which there are n.
template <bool swish, int vectors>
inline void store_codes(const ConvBlock& b, const Requantizer& requantizer, int i, const __m256i* sum, int count,
                        int half, int begin) {
  using L = Lanes<vectors>;
  const int first = vectors == 4 ? 32 * half : 8 * begin;
  Vec v[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const int lane = L::at(half, begin + j);
    v[j] = j < count ? Vec{_mm256_cvtepi32_ps(sum[j])} * Vec::load(b.scale + lane) + Vec::load(b.bias + lane)
                     : Vec::zero();
  }
  if (b.e.residual != nullptr) {
    const Codes codes = Codes::load(b.residual[i] + b.tile.first + first);
    Vec r[4];
    unpack(vectors == 4 ? codes : out_of_order(codes), r);
#pragma GCC unroll 4
    for (int j = 0; j < count; ++j) v[j] = v[j] + r[j] * Vec::set1(b.e.residual_scale);
  }
  const Codes codes = requantizer.finish<swish>(v);
  const int64_t left = b.tile.outputs - first;
  (vectors == 4 ? codes : in_order(codes)).store(b.out[i] + b.tile.first + first, left < 8 * count ? left : 8 * count);
}

template <bool swish, int rows, int vectors>
inline void store_block(const ConvBlock& b, int half, const __m256i (&sum)[rows][Lanes<vectors>::kCount]) {
  const Requantizer requantizer(b.e);
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int begin = 0; begin < Lanes<vectors>::kCount; begin += 4) {
      const int count = Lanes<vectors>::kCount - begin < 4 ? Lanes<vectors>::kCount - begin : 4;
      store_codes<swish, vectors>(b, requantizer, i, sum[i] + begin, count, half, begin);
    }
  }
}

template <typename Product, int rows, int vectors>
[[gnu::noinline]] void conv_block(const ConvBlock& b) {
  using L = Lanes<vectors>;
  for (int half = 0; half < L::kHalves; ++half) {
    __m256i sum[rows][L::kCount];
    multiply<Product, rows, vectors>(b, half, sum);
    if (b.sums != nullptr) {
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < L::kCount; ++j)
          _mm256_store_si256(reinterpret_cast<__m256i*>(b.sums + 16 * vectors * i + L::at(half, j)), sum[i][j]);
    } else if (b.e.finish == Finish::hard_swish) {
      store_block<true, rows, vectors>(b, half, sum);
    } else {
      store_block<false, rows, vectors>(b, half, sum);
    }
  }
}

template <typename Product>
struct ConvKernel {
  static constexpr int kRows[] = {0, 6, 3, 2, 3};
  static constexpr bool kSigned = Product::kSigned;

  static void run(int64_t vectors, int64_t rows, const ConvBlock& b) {
    const auto with = [&](auto count) [[gnu::always_inline]] {
      with_rows<kRows[count.count]>(rows, [&](auto n) { conv_block<Product, n.count, count.count>(b); });
    };
    vectors == 4 ? with(Rows<4>{}) : vectors == 3 ? with(Rows<3>{}) : vectors == 2 ? with(Rows<2>{}) : with(Rows<1>{});
  }

  static void look_up(const ConvBlock& b, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i)
      avx2::look_up(b.out[i] + b.tile.first, b.tile.outputs, b.e.table, b.out[i] + b.tile.first);
  }
};

}  // namespace
}  // namespace kdnative::cpu
