// Packed weights x bf16 activations around any routine that multiplies bf16 matrices: a piece of a 32-column panel is
// widened to bf16 once, which is exact for codes of 8 bits and fewer, and reused by all rows of a chunk. Include it
// after vec_avx512.h.
#pragma once

#include "../simd/gemm_a16.h"
#include "product.h"

namespace kdnative::cpu {
namespace {

constexpr int64_t kBf16PieceK = 256;  // 16 KiB of widened weights
constexpr int64_t kBf16Rows = 32;     // of one product

struct Bf16Workspace {
  alignas(64) uint16_t weights[2][kBf16PieceK * 16];
  alignas(64) float dot[kBf16Rows][kTileN];
  alignas(64) float sums[kRowChunk][kTileN];
};

// Integers in [-256, 256] as pairs of bf16.
inline __m512i pairs_of(Vec even, Vec odd) {
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(even.v), 16);
  return _mm512_mask_mov_epi16(low, 0xaaaaaaaau, _mm512_castps_si512(odd.v));
}

// The bf16 numbers that the codes of symmetric weights stand for, as a table of their low bytes and one of their high
// ones.
template <int bits>
struct CodeTable {
  alignas(16) uint8_t low[16] = {}, high[16] = {};
  constexpr CodeTable() {
    for (int u = 0; u < 1 << bits; ++u) {
      const auto value = __builtin_bit_cast(uint32_t, static_cast<float>(u - (1 << (bits - 1))));
      low[u] = static_cast<uint8_t>(value >> 16);
      high[u] = static_cast<uint8_t>(value >> 24);
    }
  }
};

// Columns [k, k + depth) of a tile of symmetric weights by table look-up: half the instructions of the way over fp32.
template <int bits>
void look_up_bf16(const PackedLinear& w, int64_t tile, int64_t k, int64_t depth, Bf16Workspace& work) {
  static constexpr CodeTable<bits> table;
  const auto repeat = [](const uint8_t* p) {
    return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  };
  const __m512i low = repeat(table.low), high = repeat(table.high), mask = _mm512_set1_epi8((1 << bits) - 1);
  // Twice each of the codes 0 and 1, or 2 and 3, of a quad of k.
  const __m512i twice[2] = {
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13)),
      _mm512_broadcast_i32x4(_mm_setr_epi8(2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15))};
  const uint8_t* data = w.data + (tile * w.k_pad + k) * 4 * bits;
  for (int64_t s = 0; s < depth; s += kStep<bits>, data += 64) {
    __m512i packed = _mm512_loadu_si512(data);
    for (int field = 0; field < 8 / bits; ++field, packed = _mm512_srli_epi16(packed, bits)) {
      const __m512i codes = _mm512_and_si512(packed, mask);
      for (int h = 0; h < 2; ++h) {
        const __m512i index = _mm512_shuffle_epi8(codes, twice[h]);
        const __m512i pairs =
            _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low, index), 0xaaaaaaaaaaaaaaaau, high, index);
        _mm512_store_si512(work.weights[field % 2] + (s + field / 2 * 4 + h * 2) * 16, pairs);
      }
    }
  }
}

// Columns [k, k + depth) of a tile.
template <int bits>
void widen_to_bf16(const PackedLinear& w, int64_t tile, int64_t k, int64_t depth, Bf16Workspace& work) {
  if constexpr (bits != 8) {
    if (w.symmetric) return look_up_bf16<bits>(w, tile, k, depth, work);
  }
  const Pair p(w, tile);
  Vec zero[2] = {Vec::zero(), Vec::zero()};
  for (int64_t s = 0; s < depth; s += kStep<bits>) {
    if (bits != 8 && (k + s) % w.group == 0) load_zeros<bits>(w, p, (k + s) / w.group, zero);
    Vec value[kStep<bits>][2];
    widen<bits>(w, p, k + s, zero, value);
    for (int i = 0; i < kStep<bits>; i += 2)
      for (int j = 0; j < 2; ++j)
        _mm512_store_si512(work.weights[j] + (s + i) * 16, pairs_of(value[i][j], value[i + 1][j]));
  }
}

// Rows [m, end) of one tile. Eight bits: a piece is summed like a group, with the scale of its column.
template <int bits, typename Multiply>
void bf16_panel(const PackedLinear& w, const FloatRows& a, const Epilogue& e, int64_t m, int64_t end, int64_t tile,
                Bf16Workspace& work, const Multiply& multiply) {
  const int64_t depth_of_all = bits == 8 ? w.k_pad : w.k, c = tile * kTileN;
  for (int64_t k = 0; k < depth_of_all; k += kBf16PieceK) {
    const int64_t depth = depth_of_all - k < kBf16PieceK ? depth_of_all - k : kBf16PieceK;
    const int64_t columns = bits == 8 ? depth : w.group;
    widen_to_bf16<bits>(w, tile, k, depth, work);
    const bool more = k + depth < depth_of_all;
    fetch_codes<bits>(w, more ? tile : tile + 1, more ? k + depth : 0, depth);
    for (int64_t r = m; r < end; r += kBf16Rows) {
      const int64_t rows = end - r < kBf16Rows ? end - r : kBf16Rows;
      const auto* x = static_cast<const uint16_t*>(a.x) + r * a.ld + k;
      for (int64_t at = 0; at < depth; at += columns) {
        multiply(Bf16Product{x + at, a.ld, rows, work.weights[0] + at * 16, kBf16PieceK * 16, kTileN, columns,
                             work.dot[0], kTileN});
        const float* scale = w.scale + (bits == 8 ? 0 : (k + at) / w.group * w.n_pad) + c;
        for (int64_t j = 0; j < kTileN; j += Vec::width) {
          const Vec factor = Vec::load(scale + j);
          for (int64_t i = 0; i < rows; ++i) {
            float* sum = work.sums[r - m + i] + j;
            fma(Vec::load(work.dot[i] + j), factor, k + at == 0 ? Vec::zero() : Vec::load(sum)).store(sum);
          }
        }
      }
    }
  }
  write_floats(w, e, m, end - m, c, kTileN, work.sums[0], kTileN);
}

template <int bits, typename Multiply>
void bf16_gemm_of(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& range,
                  const Multiply& multiply) {
  Bf16Workspace work;
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk) {
    const int64_t end = m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end;
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile)
      bf16_panel<bits>(w, a, e, m, end, tile, work, multiply);
  }
}

template <typename Multiply>
inline void bf16_gemm(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& range,
                      const Multiply& multiply) {
  (w.bits == 8   ? bf16_gemm_of<8, Multiply>
   : w.bits == 4 ? bf16_gemm_of<4, Multiply>
                 : bf16_gemm_of<2, Multiply>)(w, a, e, range, multiply);
}

}  // namespace
}  // namespace kdnative::cpu
