// softmax(Q K^T * scaling + bias) V with bf16 factors and fp32 sums, around any routine that multiplies bf16 matrices.
//
// Keys are taken in blocks, and the softmax is kept up to date from block to block (Milakov and Gimelshein 2018; Dao et
// al. 2022), so the working memory does not grow with the square of the sequence. Include it after vec_avx512.h.
#pragma once

#include <cstdint>

#include "../simd/attention_scores.h"
#include "product.h"
#include "softmax.h"

namespace kdnative::cpu {
namespace {

constexpr int64_t kKeyBlock = 512;

// Working memory of one call.
struct Bf16Operands {
  uint16_t *keys, *values;       // [t_pad / 16][d_pad / 2][16][2], [d_pad / 16][t_pad / 2][16][2]
  uint16_t *queries, *weights;   // [rows, d_pad], [rows, block]
  float *scores, *added, *sums;  // [rows, block], [rows, d_pad], [rows, d_pad]
  int64_t t_pad, d_pad, block;
};

// out[j], lane i = rows[i], lane j.
inline void transpose(const __m512i (&rows)[16], __m512i (&out)[16]) {
  __m512i a[16], b[16];
  for (int i = 0; i < 8; ++i) {  // lanes of two rows, in each quarter
    a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {  // of four rows
    b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  for (int j = 0; j < 4; ++j) {  // quarters of eight rows, then of all
    a[j] = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88);
    a[4 + j] = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd);
    a[8 + j] = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
    a[12 + j] = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
  }
  for (int j = 0; j < 4; ++j) {
    out[j] = _mm512_shuffle_i32x4(a[j], a[8 + j], 0x88);
    out[8 + j] = _mm512_shuffle_i32x4(a[j], a[8 + j], 0xdd);
    out[4 + j] = _mm512_shuffle_i32x4(a[4 + j], a[12 + j], 0x88);
    out[12 + j] = _mm512_shuffle_i32x4(a[4 + j], a[12 + j], 0xdd);
  }
}

// Columns [j, j + 32) of a row of n floats, times `factor`, as bf16; 0 beyond n.
inline __m512i load_32(const float* row, int64_t j, int64_t n, __m512 factor) {
  return as_bf16(_mm512_mul_ps(Vec::load(row + j, n - j).v, factor),
                 _mm512_mul_ps(Vec::load(row + j + 16, n - j - 16).v, factor));
}

inline void pack_keys(const AttentionArgs& a, const float* k, const Bf16Operands& to) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int64_t t = 0; t < to.t_pad; t += 16) {
    for (int64_t j = 0; j < to.d_pad; j += 32) {
      __m512i rows[16], pairs[16];
      for (int64_t i = 0; i < 16; ++i)
        rows[i] = t + i < a.tokens ? load_32(k + (t + i) * a.ld_qkv, j, a.head_dim, one) : _mm512_setzero_si512();
      transpose(rows, pairs);
      for (int64_t p = 0; p < 16; ++p) _mm512_storeu_si512(to.keys + t * to.d_pad + (j / 2 + p) * 32, pairs[p]);
    }
  }
}

inline void pack_values(const AttentionArgs& a, const float* v, const Bf16Operands& to) {
  // Lanes of two rows side by side -> pairs.
  const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (int64_t j = 0; j < to.d_pad; j += 16) {
    uint16_t* block = to.values + j * to.t_pad;
    const auto row = [&](int64_t i) {
      return i < a.tokens ? Vec::load(v + i * a.ld_qkv + j, a.head_dim - j) : Vec::zero();
    };
    for (int64_t t = 0; t < to.t_pad; t += 2)
      _mm512_storeu_si512(block + t * 16, _mm512_permutexvar_epi16(pairs, as_bf16(row(t).v, row(t + 1).v)));
  }
}

// Query rows [first, first + rows) of one head against all keys.
template <typename Multiply>
inline void attend_rows_bf16(const AttentionArgs& a, int32_t head, int64_t first, int64_t rows, const Bf16Operands& o,
                             const Multiply& multiply) {
  const float* q = a.qkv + first * a.ld_qkv + head * a.head_dim;
  const Vec scaling = Vec::set1(a.scaling);
  SoftmaxRows softmax[kQueryBlock / kSoftmaxRows];
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < o.d_pad; j += 32)
      _mm512_storeu_si512(o.queries + r * o.d_pad + j, load_32(q + r * a.ld_qkv, j, a.head_dim, scaling.v));
  }
  const Range keys = keys_of(a, first, rows, o.t_pad, 32);
  for (int64_t k = keys.begin; k < keys.end; k += o.block) {
    const bool is_first = k == keys.begin;
    const int64_t padded = keys.end - k < o.block ? keys.end - k : o.block;
    const int64_t count = a.tokens - k < padded ? a.tokens - k : padded;
    multiply(
        Bf16Product{o.queries, o.d_pad, rows, o.keys + k * o.d_pad, 16 * o.d_pad, padded, o.d_pad, o.scores, o.block});
    if (a.bias != nullptr || a.windowed()) {
      for (int64_t r = 0; r < rows; ++r) adjust_scores(a, head, first + r, {k, k + count}, o.scores + r * o.block - k);
    }
    for (int64_t r = 0; r < rows; r += kSoftmaxRows)
      softmax[r / kSoftmaxRows].add(o.scores + r * o.block, o.block, rows - r, count, padded, is_first,
                                    o.weights + r * o.block);
    float* products = is_first ? o.sums : o.added;
    multiply(
        Bf16Product{o.weights, o.block, rows, o.values + k * 16, 16 * o.t_pad, o.d_pad, padded, products, o.d_pad});
    if (is_first) continue;
    for (int64_t r = 0; r < rows; ++r) {
      const Vec factor = Vec::set1(softmax[r / kSoftmaxRows].factor.v[r % kSoftmaxRows]);
      for (int64_t j = r * o.d_pad; j < (r + 1) * o.d_pad; j += 16)
        fma(Vec::load(o.sums + j), factor, Vec::load(o.added + j)).store(o.sums + j);
    }
  }
  float* out = a.out + first * a.ld_out + head * a.head_dim;
  for (int64_t r = 0; r < rows; ++r) {
    const Vec inverse = Vec::set1(1.0f / softmax[r / kSoftmaxRows].total.v[r % kSoftmaxRows]);
    for (int64_t j = 0; j < a.head_dim; j += 16)
      (Vec::load(o.sums + r * o.d_pad + j) * inverse).store(out + r * a.ld_out + j, a.head_dim - j);
  }
}

// multiply(Bf16Product) for up to `query_rows` (at most kQueryBlock) rows.
template <typename Multiply>
inline void attention_bf16(const AttentionArgs& a, int32_t head_begin, int32_t head_end, int64_t query_rows,
                           const Multiply& multiply) {
  Bf16Operands o;
  o.t_pad = round_up_to(a.tokens, 32);
  o.d_pad = round_up_to(a.head_dim, 32);
  o.block = o.t_pad < kKeyBlock ? o.t_pad : kKeyBlock;
  // Floats first: every part is then a multiple of 64 bytes.
  float* at = a.scratch;
  const auto floats = [&](int64_t n) { return (at += n) - n; };
  const auto halves = [&](int64_t n) { return reinterpret_cast<uint16_t*>(floats(n / 2)); };
  o.keys = halves(o.t_pad * o.d_pad);
  o.values = halves(o.t_pad * o.d_pad);
  o.queries = halves(kQueryBlock * o.d_pad);
  o.weights = halves(kQueryBlock * o.block);
  o.scores = floats(kQueryBlock * o.block);
  o.sums = floats(kQueryBlock * o.d_pad);
  o.added = floats(kQueryBlock * o.d_pad);
  const int64_t width = a.heads * a.head_dim;
  for (int32_t head = head_begin; head < head_end; ++head) {
    pack_keys(a, a.qkv + width + head * a.head_dim, o);
    pack_values(a, a.qkv + 2 * width + head * a.head_dim, o);
    for (int64_t t = 0; t < a.tokens; t += query_rows)
      attend_rows_bf16(a, head, t, a.tokens - t < query_rows ? a.tokens - t : query_rows, o, multiply);
  }
}

}  // namespace
}  // namespace kdnative::cpu
