// Convolutions in 256-bit registers. A block of up to 6 pixels goes through a tile in parts whose sums fit the
// registers: some pixels, and 16 channels or, where there are as many, 32. A tile of 64 channels is two halves, which
// its order makes whole: lanes 0 to 7 of all its vectors are the first 32 channels.
//
// Product is the instruction:
//   kSums                      registers of sums of a part
//   kMostQuads, sort()         as in conv.h; bit g of a kind: group g of the lanes is plain
//   add(sum, quad, weights)    sum + the products of four codes, in every lane, and eight lanes of weights; plain ones,
//                              where they are sorted
//   add_any()                  the same of any weights, where they are sorted
//
// Include it after vec_avx2.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

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

// The groups of lanes of a tile: register j of group g begins with lane at(g, j). They are channels from first(g) on.
template <int vectors>
struct Lanes {
  static constexpr int kCount = vectors % 2 == 0 ? 4 : 2;  // registers
  static constexpr int kGroups = 2 * vectors / kCount;
  static constexpr int first(int g) { return 8 * kCount * g; }
  static constexpr int at(int g, int j) { return vectors == 4 ? 16 * j + 8 * g : first(g) + 8 * j; }
};

template <int at>
struct Index {
  constexpr operator int() const { return at; }
};

template <typename F, int... i>
[[gnu::always_inline]] inline void for_indices(std::integer_sequence<int, i...>, const F& f) {
  (f(Index<i>{}), ...);
}

// f(0) .. f(n - 1). GCC unrolls long loops too late to keep an array that they index in registers.
template <int n, typename F>
[[gnu::always_inline]] inline void unrolled(const F& f) {
  for_indices(std::make_integer_sequence<int, n>{}, f);
}

// sum[i][j] = step(sum[i][j], quad of pixel i, register j of weights), for four channels. What there is less of waits
// in registers.
template <int rows, int count, typename F>
[[gnu::always_inline]] inline void add_quads(const uint8_t* const (&x)[rows], int64_t k, const int8_t* w, int64_t next,
                                             __m256i (&sum)[rows][count], const F& step) {
  if constexpr (rows < count) {
    __m256i quad[rows];
    unrolled<rows>([&](auto i) [[gnu::always_inline]] { quad[i] = quad_of(x[i] + k); });
    unrolled<count>([&](auto j) [[gnu::always_inline]] {
      const __m256i weights = _mm256_loadu_si256(lanes_of(w + j * next));
      unrolled<rows>([&](auto i) [[gnu::always_inline]] { sum[i][j] = step(sum[i][j], quad[i], weights); });
    });
  } else {
    __m256i weights[count];
    unrolled<count>([&](auto j) [[gnu::always_inline]] { weights[j] = _mm256_loadu_si256(lanes_of(w + j * next)); });
    unrolled<rows>([&](auto i) [[gnu::always_inline]] {
      const __m256i quad = quad_of(x[i] + k);
      unrolled<count>([&](auto j) [[gnu::always_inline]] { sum[i][j] = step(sum[i][j], quad, weights[j]); });
    });
  }
}

template <typename Product, int rows, int vectors>
inline void multiply(const ConvBlock& b, int row, int group, __m256i (&sum)[rows][Lanes<vectors>::kCount]) {
  using L = Lanes<vectors>;
  unrolled<rows>([&](auto i) [[gnu::always_inline]] {
    unrolled<L::kCount>([&](auto j) [[gnu::always_inline]] {
      sum[i][j] = _mm256_loadu_si256(lanes_of(b.start + (row + i) * b.start_step + L::at(group, j)));
    });
  });
  constexpr int64_t next = 4 * (L::at(0, 1) - L::at(0, 0));
  const int8_t* w = b.weights + 4 * L::at(group, 0);
  const uint8_t* kind = b.kinds;
  const uint8_t* const* pixel = b.pixel + row;
  for (int64_t tap = 0; tap < b.taps; ++tap, pixel += b.tap_step) {
    const uint8_t* x[rows];
    unrolled<rows>([&](auto i) [[gnu::always_inline]] { x[i] = pixel[i]; });
    for (int64_t k = 0, depth = b.tile.depth; k < depth; k += 4, w += 64 * vectors) {
      if constexpr (Product::kMostQuads > 0) {
        if (kind == nullptr || (*kind++ >> group & 1) == 0) {
          add_quads(x, k, w, next, sum, [](__m256i s, __m256i quad, __m256i weights) [[gnu::always_inline]] {
            return Product::add_any(s, quad, weights);
          });
          continue;
        }
      }
      add_quads(x, k, w, next, sum, [](__m256i s, __m256i quad, __m256i weights) [[gnu::always_inline]] {
        return Product::add(s, quad, weights);
      });
    }
  }
}

// The codes of a group of channels of one pixel.
template <bool swish, int vectors>
[[gnu::always_inline]] inline void store_codes(const ConvBlock& b, const Requantizer& requantizer, int row, int group,
                                               const __m256i (&sum)[Lanes<vectors>::kCount]) {
  using L = Lanes<vectors>;
  const int64_t first = L::first(group), channel = b.tile.first + first;
  Vec v[4];
  v[2] = v[3] = Vec::zero();
  unrolled<L::kCount>([&](auto j) [[gnu::always_inline]] {
    const int lane = L::at(group, j);
    v[j] = Vec{_mm256_cvtepi32_ps(sum[j])} * Vec::load(b.scale + lane) + Vec::load(b.bias + lane);
  });
  if (b.e.residual != nullptr) {
    const Codes codes = Codes::load(b.residual[row] + channel);
    Vec r[4];
    unpack(vectors == 4 ? codes : out_of_order(codes), r);
    const Vec scale = Vec::set1(b.e.residual_scale);
    unrolled<L::kCount>([&](auto j) [[gnu::always_inline]] { v[j] = v[j] + r[j] * scale; });
  }
  const Codes codes = requantizer.finish<swish>(v);
  const int64_t left = b.tile.outputs - first, all = 8 * L::kCount;
  (vectors == 4 ? codes : in_order(codes)).store(b.out[row] + channel, left < all ? left : all);
}

template <typename Product, int rows, int vectors>
[[gnu::noinline]] void conv_part(const ConvBlock& b, int row, int group) {
  using L = Lanes<vectors>;
  __m256i sum[rows][L::kCount];
  multiply<Product, rows, vectors>(b, row, group, sum);
  if (b.sums != nullptr) {
    unrolled<rows>([&](auto i) [[gnu::always_inline]] {
      unrolled<L::kCount>([&](auto j) [[gnu::always_inline]] {
        int32_t* to = b.sums + 16 * vectors * (row + i) + L::at(group, j);
        _mm256_store_si256(reinterpret_cast<__m256i*>(to), sum[i][j]);
      });
    });
    return;
  }
  const Requantizer requantizer(b.e);
  const bool swish = b.e.finish == Finish::hard_swish;
  unrolled<rows>([&](auto i) [[gnu::always_inline]] {
    if (swish) {
      store_codes<true, vectors>(b, requantizer, row + i, group, sum[i]);
    } else {
      store_codes<false, vectors>(b, requantizer, row + i, group, sum[i]);
    }
  });
}

template <typename Product, int rows, int vectors>
inline void conv_parts(const ConvBlock& b, int row, int group) {
  constexpr int most = Product::kSums / Lanes<vectors>::kCount, parts = (rows + most - 1) / most;
  constexpr int first = (rows + parts - 1) / parts;
  conv_part<Product, first, vectors>(b, row, group);
  if constexpr (first < rows) conv_parts<Product, rows - first, vectors>(b, row + first, group);
}

template <typename Product, int rows, int vectors>
[[gnu::noinline]] void conv_block(const ConvBlock& b) {
  for (int group = 0; group < Lanes<vectors>::kGroups; ++group) conv_parts<Product, rows, vectors>(b, 0, group);
}

template <typename Product>
struct ConvKernel {
  static constexpr int kRows[] = {0, 6, 6, 6, 6};
  static constexpr bool kSigned = false;
  static constexpr int64_t kMostQuads = Product::kMostQuads;

  static void sort(const int8_t* weights, int64_t quads, int64_t vectors, uint8_t* kinds) {
    Product::sort(weights, quads, vectors, kinds);
  }

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
