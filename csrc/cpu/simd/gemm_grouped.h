// 4-bit and 2-bit weights x int8 over Vec and Ints: blocks of rows x (Ints::width columns of the first 16 of a tile and
// as many of the second). Include it after one vec_*.h and its ints_*.h.
//
// The codes u in [0, 2^bits) are an unsigned operand as they are; the zero points come out with the sums of the
// activations, which the quantizer left behind.
//
// Products says how an instruction set multiplies:
//   grouped_rows(bits)         rows of a block at most
//   chains(rows)               independent sums of one output, to hide the latency of short blocks
//   multiply_codes<bits>(codes, q, ld_q, columns, dot)
//                              dot[s][i][j] += products of row i and vector j over `columns` (32, 64 or 128) columns of
//                              k; every chain s may take any part of them
#pragma once

#include <type_traits>

#include "../kernels.h"
#include "blocks.h"
#include "epilogue.h"

namespace kdnative::cpu {
namespace {

// Quads of k (four columns) in 64 bytes of codes.
template <int bits>
constexpr int kQuads = 4 / bits;

// u[t][j]: quad t, Ints::width of the 16 columns from 16 j on.
template <int bits>
inline void decode(Ints packed, Ints (&u)[kQuads<bits>][2]) {
  const Ints mask = Ints::set1_s8((1 << bits) - 1);
  u[0][0] = packed & mask;
  u[0][1] = shift_words_right<bits>(packed) & mask;
  if constexpr (bits == 2) {
    u[1][0] = shift_words_right<4>(packed) & mask;
    u[1][1] = shift_words_right<6>(packed) & mask;
  }
}

// sum of -zero * (activations of the group): what the sums of a * u start from.
template <int bits>
inline Ints initial_sum(const PackedLinear& w, int64_t g, int64_t c, int32_t total) {
  if (w.symmetric) return Ints::set1(-(1 << (bits - 1)) * total);
  return Ints::load_u8(w.zero + g * w.n_pad + c) * Ints::set1(-total);
}

// Two-level weights differ in the scale of a group, an integer, and so in the sum over the groups, which int32 holds.
//
// `part` counts the pieces of Ints::width columns in 16.
template <typename Products, int bits, bool two_levels, int rows>
void grouped_block(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t tile,
                   int64_t part) {
  constexpr int kChains = Products::chains(rows);
  constexpr int64_t kWidth = Ints::width;
  const int64_t columns = w.group, first = tile * kTileN + part * kWidth;
  const uint8_t* codes = w.data + tile * w.k_pad * 4 * bits + part * kWidth * 4;
  const int8_t* q = a.q + r * a.ld;
  for (int64_t j = 0; j < 2; ++j) fetch_output(e, r, rows, first + 16 * j, kWidth);
  using Sum = std::conditional_t<two_levels, Ints, Vec>;
  Sum sum[rows][2];
  for (int i = 0; i < rows; ++i) sum[i][0] = sum[i][1] = Sum::zero();
  for (int64_t g = 0; g * columns < w.k; ++g) {
    Ints dot[kChains][rows][2];
    for (int i = 0; i < rows; ++i) {
      const int32_t total = group_total(a, r + i, g * columns, columns);
      for (int j = 0; j < 2; ++j) {
        dot[0][i][j] = initial_sum<bits>(w, g, first + 16 * j, total);
        for (int s = 1; s < kChains; ++s) dot[s][i][j] = Ints::zero();
      }
    }
    Products::template multiply_codes<bits>(codes + g * columns * 4 * bits, q + g * columns, a.ld, columns, dot);
    for (int j = 0; j < 2; ++j) {
      const int64_t at = g * w.n_pad + first + 16 * j;
      for (int i = 0; i < rows; ++i) {
        Ints total = dot[0][i][j];
        for (int s = 1; s < kChains; ++s) total = total + dot[s][i][j];
        if constexpr (two_levels) {
          sum[i][j] = sum[i][j] + total * Ints::load_u8(w.group_scale + at);
        } else {
          sum[i][j] = fma(total.to_float(), Vec::load(w.scale + at), sum[i][j]);
        }
      }
    }
  }
  using Number = std::conditional_t<two_levels, int32_t, float>;
  const auto write = [&](int64_t c, int64_t width, const Number* out) {
    if constexpr (two_levels) {
      write_sums(w, a, e, r, rows, c, width, out, width);
    } else {
      write_scaled(w, a, e, r, rows, c, width, out, width);
    }
  };
  if constexpr (kWidth == 16) {  // the two vectors are neighbours
    alignas(64) Number out[rows][32];
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < 2; ++j) sum[i][j].store(out[i] + 16 * j);
    write(first, kTileN, out[0]);
  } else {
    alignas(64) Number out[2][rows][kWidth];
    for (int j = 0; j < 2; ++j) {
      for (int i = 0; i < rows; ++i) sum[i][j].store(out[j][i]);
      write(first + 16 * j, kWidth, out[j][0]);
    }
  }
}

template <typename Products, int bits, bool two_levels = false>
void grouped_gemm(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  for_row_chunks(range, [&](int64_t m, int64_t end) {
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      for (int64_t part = 0; part < 16 / Ints::width; ++part) {
        for_row_blocks<Products::grouped_rows(bits)>(m, end, [&](int64_t r, auto rows) {
          grouped_block<Products, bits, two_levels, rows.count>(w, a, e, r, tile, part);
        });
      }
    }
  });
}

}  // namespace
}  // namespace kdnative::cpu
