// GEMMs with vpdpbusd over Ints, whatever its width. Include it after one vec_*.h and its ints_*.h.
//
// Dot is the instruction and the size of its register file:
//   kRows, grouped_rows(bits)     rows of a block at most, of 8-bit weights and of narrower ones
//   kVectorRows                   rows up to which gemv_grouped.h is faster
//   add_products(sum, u, s)       sum + the dot products of four unsigned bytes of u and four signed ones of s a lane
#pragma once

#include "../kernels.h"
#include "blocks.h"
#include "epilogue.h"
#include "gemm_grouped.h"
#include "gemv_grouped.h"

namespace kdnative::cpu {
namespace {

// Bytes ahead in each stream of weights. 256 bits use half of every 64 bytes and come back for the other half, so those
// kernels leave grouped weights to the hardware.
constexpr int64_t kPrefetch = 2048;

// Short blocks would wait for the latency of vpdpbusd.
constexpr int vnni_chains(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }

// Products of gemm_grouped.h.
template <typename Dot>
struct VnniProducts {
  static constexpr int grouped_rows(int bits) { return Dot::grouped_rows(bits); }
  static constexpr int chains(int rows) { return vnni_chains(rows); }

  template <int bits, int rows, int chain_count>
  static void multiply_codes(const uint8_t* codes, const int8_t* q, int64_t ld_q, int64_t columns,
                             Ints (&dot)[chain_count][rows][2]) {
    constexpr int64_t kStep = 4 * kQuads<bits>;  // columns of k in 64 bytes of codes
    for (int64_t k = 0; k < columns; k += kStep * chain_count) {
      for (int s = 0; s < chain_count; ++s) {
        const int64_t first = k + kStep * s;
        const uint8_t* at = codes + first * 4 * bits;
        if (Ints::width == 16) __builtin_prefetch(at + kPrefetch);
        Ints u[kQuads<bits>][2];
        decode<bits>(Ints::load(at), u);
        for (int t = 0; t < kQuads<bits>; ++t) {
          for (int i = 0; i < rows; ++i) {
            const Ints x = Ints::set1(load_quad(q + i * ld_q + first + 4 * t));
            for (int j = 0; j < 2; ++j) dot[s][i][j] = Dot::add_products(dot[s][i][j], u[t][j], x);
          }
        }
      }
    }
  }
};

template <typename Dot>
int32_t row_sum(const int8_t* q, int64_t k_pad) {
  Ints sum = Ints::zero();
  for (int64_t k = 0; k < k_pad; k += 4 * Ints::width) {
    sum = Dot::add_products(sum, Ints::set1_s8(1), Ints::load(q + k));
  }
  return reduce_add(sum);
}

// int8 weights, rows x (2 * Ints::width) columns from c on.
//
// The weights become unsigned by flipping the top bit (w + 128, one instruction shared by all rows), the activations
// are broadcast as they are, and 128 * (sum of the row) is taken out. `ahead`: what to fetch, in bytes from what is
// read.
template <typename Dot, int rows>
[[gnu::noinline]] void block_w8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t c,
                                const int32_t* sums, int64_t ahead) {
  constexpr int kChains = vnni_chains(rows);
  constexpr int64_t kColumns = 2 * Ints::width;
  // The second vector is the next 16 columns, or the other half of these.
  const int8_t* b0 = reinterpret_cast<const int8_t*>(w.data) + c * w.k_pad;
  const int8_t* b1 = b0 + (Ints::width == 16 ? 16 * w.k_pad : 4 * Ints::width);
  const int8_t* q = a.q + r * a.ld;
  const Ints top = Ints::set1_s8(-128);
  fetch_output(e, r, rows, c, kColumns);
  Ints sum[kChains][rows][2];
  for (int s = 0; s < kChains; ++s)
    for (int i = 0; i < rows; ++i) sum[s][i][0] = sum[s][i][1] = s == 0 ? Ints::set1(of_shift(sums[i])) : Ints::zero();
  for (int64_t k = 0; k < w.k_pad; k += 4 * kChains) {
    for (int s = 0; s < kChains; ++s) {
      const int64_t at = (k + 4 * s) * 16;
      __builtin_prefetch(b0 + at + ahead);
      if (Ints::width == 16) __builtin_prefetch(b1 + at + ahead);
      const Ints u0 = Ints::load(b0 + at) ^ top, u1 = Ints::load(b1 + at) ^ top;
      for (int i = 0; i < rows; ++i) {
        const Ints x = Ints::set1(load_quad(q + i * a.ld + k + 4 * s));
        sum[s][i][0] = Dot::add_products(sum[s][i][0], u0, x);
        sum[s][i][1] = Dot::add_products(sum[s][i][1], u1, x);
      }
    }
  }
  for (int s = 1; s < kChains; ++s) {
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < 2; ++j) sum[0][i][j] = sum[0][i][j] + sum[s][i][j];
  }
  if (is_plain(w, e, c, kColumns)) {  // from registers: through memory a block costs one or two percent more
    return write_plain(w, e, r, rows, c, kColumns, [&](int64_t i, int64_t j) [[gnu::always_inline]] {
      return sum[0][i][j / Ints::width].to_float() * (Vec::set1(a.scale[r + i]) * Vec::load(w.scale + c + j));
    });
  }
  alignas(64) int32_t dot[rows][kColumns];
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < 2; ++j) sum[0][i][j].store(dot[i] + Ints::width * j);
  write_sums(w, a, e, r, rows, c, kColumns, dot[0], kColumns);
}

template <typename Dot>
void vnni_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  const int64_t last = range.tile_end * kTileN < w.n ? range.tile_end * kTileN : w.n;
  int32_t sums[kRowChunk];
  for_row_chunks(range, [&](int64_t m, int64_t end) {
    for (int64_t r = m; r < end; ++r) sums[r - m] = row_sum<Dot>(a.q + r * a.ld, a.k_pad);
    for (int64_t c = range.tile_begin * kTileN; c < last; c += 2 * Ints::width) {
      // The first rows wait for their weights. While the next ones multiply the same, those of the next columns come.
      for_row_blocks<Dot::kRows>(m, end, [&](int64_t r, auto rows) {
        const int64_t ahead = r == m ? kPrefetch : 2 * Ints::width * w.k_pad;
        block_w8<Dot, rows.count>(w, a, e, r, c, sums + (r - m), ahead);
      });
    }
  });
}

template <typename Dot, int bits>
void vnni_grouped(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  const int64_t rows = range.m_end - range.m_begin;
  if (rows < 1 || rows > Dot::kVectorRows) return grouped_gemm<VnniProducts<Dot>, bits>(w, a, e, range);
  with_rows<Dot::kVectorRows>(rows, [&](auto count) { gemv<Dot, bits, count.count>(w, a, e, range); });
}

}  // namespace
}  // namespace kdnative::cpu
