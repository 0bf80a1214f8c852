// 4-bit and 2-bit weights x one or two rows of int8, with vpdpbusd over Ints: weights are read once and once only, so
// what counts is the number of instructions a byte of them. Include it after gemm_grouped.h.
//
// A byte holds 8 / bits codes. Masked but not shifted, the code at position p counts 2^(bits p) times itself; every
// position has a sum of its own, which is shifted right at the end of a group. Nothing is lost: the sum is a multiple
// of 2^(bits p), and no more than 2^26 (255 * 127 * 128 columns / 4 lanes * 4 products).
#pragma once

#include "../kernels.h"
#include "blocks.h"
#include "epilogue.h"

namespace kdnative::cpu {
namespace {

constexpr int64_t kCodesAhead = 2048;  // bytes of codes to fetch ahead of their use
constexpr int64_t kScalesAhead = 8;    // groups: scales of one group lie far from those of the next

// `pieces` pieces of a tile or more; a piece is what one Ints holds of each 64 bytes of codes: Ints::width columns of
// the first 16 of the tile, and as many of the second.
template <typename Dot, int bits, int rows, int pieces>
inline void gemv_block(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t piece) {
  constexpr int kPositions = 8 / bits, kSums = rows * pieces * kPositions;
  constexpr int kChains = kSums >= 8 ? 1 : 8 / kSums;  // fewer than 8 sums would wait for the latency of vpdpbusd
  constexpr int64_t kWidth = Ints::width, kParts = 16 / kWidth, kStep = 2 * kPositions;
  const int64_t columns = w.group;
  const uint8_t* codes[pieces];
  int64_t first[pieces];  // column
  for (int p = 0; p < pieces; ++p) {
    const int64_t tile = (piece + p) / kParts, part = (piece + p) % kParts;
    codes[p] = w.data + tile * w.k_pad * 4 * bits + part * kWidth * 4;
    first[p] = tile * kTileN + part * kWidth;
  }
  const int8_t* q = a.q + r * a.ld;
  Ints mask[kPositions];
  for (int i = 0; i < kPositions; ++i) mask[i] = Ints::set1_s8(static_cast<int8_t>(((1 << bits) - 1) << (bits * i)));
  Vec sum[rows][pieces][2];
  for (int i = 0; i < rows; ++i)
    for (int p = 0; p < pieces; ++p) sum[i][p][0] = sum[i][p][1] = Vec::zero();
  for (int64_t g = 0; g * columns < w.k; ++g) {
    Ints dot[kChains][rows][pieces][kPositions];
    for (int s = 0; s < kChains; ++s)
      for (int i = 0; i < rows; ++i)
        for (int p = 0; p < pieces; ++p)
          for (int at = 0; at < kPositions; ++at) dot[s][i][p][at] = Ints::zero();
    for (int p = 0; p < pieces; ++p)
      for (int j = 0; j < 2; ++j) __builtin_prefetch(w.scale + (g + kScalesAhead) * w.n_pad + first[p] + 16 * j);
    for (int64_t k = g * columns; k < (g + 1) * columns; k += kStep * kChains) {
      for (int s = 0; s < kChains; ++s) {
        const int64_t column = k + kStep * s;
        Ints x[rows][kPositions / 2];
        for (int i = 0; i < rows; ++i)
          for (int t = 0; t < kPositions / 2; ++t) x[i][t] = Ints::set1(load_quad(q + i * a.ld + column + 4 * t));
        for (int p = 0; p < pieces; ++p) {
          const uint8_t* from = codes[p] + column * 4 * bits;
          __builtin_prefetch(from + kCodesAhead);
          const Ints packed = Ints::load(from);
          for (int at = 0; at < kPositions; ++at) {
            const Ints u = packed & mask[at];
            for (int i = 0; i < rows; ++i) dot[s][i][p][at] = Dot::add_products(dot[s][i][p][at], u, x[i][at / 2]);
          }
        }
      }
    }
    for (int i = 0; i < rows; ++i) {
      const int32_t group_sum = group_total(a, r + i, g * columns, columns);
      for (int p = 0; p < pieces; ++p) {
        for (int j = 0; j < 2; ++j) {
          Ints total = initial_sum<bits>(w, g, first[p] + 16 * j, group_sum);
          const auto add = [&](int at) {
            Ints part = dot[0][i][p][at];
            for (int s = 1; s < kChains; ++s) part = part + dot[s][i][p][at];
            return part;
          };
          total = total + (j == 0 ? add(0) : shift_right<bits>(add(1)));
          if constexpr (bits == 2) total = total + (j == 0 ? shift_right<4>(add(2)) : shift_right<6>(add(3)));
          const Vec scale = Vec::load(w.scale + g * w.n_pad + first[p] + 16 * j);
          sum[i][p][j] = fma(total.to_float(), scale, sum[i][p][j]);
        }
      }
    }
  }
  for (int p = 0; p < pieces; ++p) {
    for (int j = 0; j < 2; ++j) {
      alignas(64) float out[rows][kWidth];
      for (int i = 0; i < rows; ++i) sum[i][p][j].store(out[i]);
      write_scaled(w, a, e, r, rows, first[p] + 16 * j, kWidth, out[0], kWidth);
    }
  }
}

template <typename Dot, int bits, int rows>
void gemv(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  constexpr int64_t kParts = 16 / Ints::width;
  int64_t piece = range.tile_begin * kParts;
  for (; piece + 2 <= range.tile_end * kParts; piece += 2)
    gemv_block<Dot, bits, rows, 2>(w, a, e, range.m_begin, piece);
  if (piece < range.tile_end * kParts) gemv_block<Dot, bits, rows, 1>(w, a, e, range.m_begin, piece);
}

}  // namespace
}  // namespace kdnative::cpu
