// Two-level 4-bit weights: a tile of columns is decoded once to int8, in the layout of 8-bit weights, and the 8-bit
// GEMM of the instruction set runs over all rows. Include it after one vec_*.h.
//
// The format is progressive group quantization (QServe, Lin et al. 2024): group scales are integers, so sums stay in
// int32 over the whole of k, and every row after the first few costs what it costs with 8-bit weights.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu {
namespace {

// Columns [k, k + depth) of a tile as group_scale * (u - zero), [2][depth / 4][16][4] with the second half `half` bytes
// after the first. Codes times group scales are below 256, and the differences within [-127, 127], so bytes modulo 256
// are enough. k is a multiple of every group.
inline void decode_tile(const PackedLinear& w, int64_t tile, int64_t k, int64_t depth, int8_t* panel, int64_t half) {
  for (int64_t c = 0; c < 16; c += Vec::width) {
    const uint8_t* data = w.data + (tile * w.k_pad + k) * 16 + c * 4;
    for (int64_t at = 0; at < depth; at += w.group) {
      const int64_t first = (k + at) / w.group * w.n_pad + tile * kTileN + c, second = first + 16;
      const Word scale0 = Word::repeat(w.group_scale + first), scale1 = Word::repeat(w.group_scale + second);
      const Word zero0 = scale_bytes(Word::repeat(w.zero + first), scale0);
      const Word zero1 = scale_bytes(Word::repeat(w.zero + second), scale1);
      for (int64_t s = at; s < at + w.group; s += 4) {
        const Word codes = Word::load(data + s * 16);
        int8_t* to = panel + s * 16 + c * 4;
        subtract_bytes(scale_bytes(nibbles<0>(codes), scale0), zero0).store(to);
        subtract_bytes(scale_bytes(nibbles<4>(codes), scale1), zero1).store(to + half);
      }
    }
  }
}

template <typename Gemm>
inline void gemm_two_level_impl(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e,
                                const GemmRange& range, const Gemm& gemm_w8a8) {
  for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
    const int64_t c = tile * kTileN;
    decode_tile(w, tile, 0, w.k_pad, range.panel, 16 * w.k_pad);
    PackedLinear panel = {};
    panel.bits = 8;
    panel.n = w.n - c < kTileN ? w.n - c : kTileN;
    panel.n_pad = kTileN;
    panel.k = w.k;
    panel.k_pad = w.k_pad;
    panel.groups = 1;
    panel.data = reinterpret_cast<const uint8_t*>(range.panel);
    panel.scale = w.scale + c;
    panel.bias = w.bias == nullptr ? nullptr : w.bias + c;
    Epilogue part = e;
    part.out = static_cast<char*>(e.out) + c * (e.out_type == DType::f32 ? 4 : 2);
    if (e.residual != nullptr) part.residual = e.residual + c;
    gemm_w8a8(panel, a, part, GemmRange{range.m_begin, range.m_end, 0, 1});
  }
}

}  // namespace
}  // namespace kdnative::cpu
