// The table of CPU kernels: what one instruction set must provide.
//
// Kernels take raw pointers and never allocate, never throw and never start threads: operators (csrc/ops) validate and
// allocate, and whoever calls a kernel, a linear operator or the transformer, splits the work into the tasks of a team
// of threads (split.h). A range [begin, end) argument is one task's share; results do not depend on how the work is
// split because K is never split across calls.
//
// quantize_rows, the GEMMs with int8 activations, their sparse forms and gemm_a16 return the same bits on every
// instruction set, activation functions included (simd/math.h), and so do the kernels of convolution.h. layer_norm and
// attention do not: they add in the order of their vectors. Nor does what rounds to bf16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "convolution.h"
#include "packed.h"
#include "sparse.h"

namespace kdnative::cpu {

enum class DType : int32_t { f32 = 0, bf16 = 1, f16 = 2 };

enum class Activation : int32_t { none = 0, relu = 1, gelu_erf = 2, gelu_tanh = 3, silu = 4, tanh = 5 };

// Bytes from one row of quantized activations to the next: an odd number of cache lines, so that the rows of a block
// spread over all sets of a cache.
constexpr int64_t quantized_row_bytes(int64_t k_pad) { return k_pad / 64 % 2 == 0 ? k_pad + 64 : k_pad; }

// Activations after dynamic per-token quantization. Row r starts at q + r * ld; columns [k, k_pad) are zero.
struct QuantizedRows {
  const int8_t* q;           // [m, k_pad], values in [-127, 127]
  int64_t ld;                // usually quantized_row_bytes(k_pad)
  const float* scale;        // [m]
  const int32_t* group_sum;  // [m, k_pad / 32]: sum of q over each 32 columns
  int64_t k_pad;
};

// Activations that stay in floating point: type f32, [m, k], or bf16, [m, k_pad] with zeros from column k on.
struct FloatRows {
  const void* x;  // row r starts at element r * ld
  DType type;
  int64_t ld;
};

// y[r, c] = activation(acc * (scale_a[r] * scale_w[c]) + bias[c]) + residual[r, c], each operation rounded in fp32, no
// fused multiply-add here: training reproduces these bits with plain tensor arithmetic.
struct Epilogue {
  void* out;       // element (r, c) at out + r * ld_out + c
  int64_t ld_out;  // in elements
  DType out_type;
  Activation activation;
  const float* residual;  // fp32, same row stride as ld_residual, or nullptr
  int64_t ld_residual;
};

constexpr int64_t kRowChunk = 128;  // rows that reuse a column tile while it is in the nearest caches

// One thread's share: rows [m_begin, m_end), and column tiles of kTileN columns [tile_begin, tile_end).
struct GemmRange {
  int64_t m_begin, m_end, tile_begin, tile_end;
  int8_t* panel = nullptr;  // panel_bytes() of working memory, private to the thread
};

// Attention of one sequence over some heads, fp32. Q, K, V are column slices of one [tokens, ld_qkv] buffer.
constexpr int64_t kEveryKey = INT64_MAX / 4;  // far, and a column can be added to it

struct AttentionArgs {
  const float* qkv;  // row t: [q heads | k heads | v heads], each heads * head_dim wide
  int64_t ld_qkv;
  float* out;  // row t: heads * head_dim
  int64_t ld_out;
  int64_t tokens;  // rows of this sequence
  int32_t heads, head_dim;
  float scaling;   // usually 1 / sqrt(head_dim)
  float* scratch;  // at least attention_scratch(tokens, head_dim) floats, private to the caller
  // Added to the score of query i and key j: bias[head * bias_stride + column(j) - column(i)]; nullptr adds nothing.
  const float* bias;
  int64_t bias_stride;
  int64_t before, after;   // keys more columns before or after the query are not attended to; kEveryKey: all are
  const int32_t* columns;  // of each row, increasing; nullptr: rows are consecutive columns

  bool windowed() const { return before != kEveryKey || after != kEveryKey; }
};

constexpr int64_t kQueryBlock = 32;  // query rows whose scores a kernel holds at once, at most

// Scratch of one attention call, in floats: K and V repacked for the head, and scores, weights and sums of a block of
// query rows.
constexpr int64_t attention_scratch(int64_t tokens, int64_t head_dim) {
  const int64_t t = (tokens + 31) / 32 * 32, d = (head_dim + 31) / 32 * 32;
  return 2 * t * d + 16 * t + kQueryBlock * (3 * d + 3 * (t < 512 ? t : 512) / 2) + 64;
}

constexpr int64_t kPanelRows = 64;  // rows of activations that gemm_blocks takes at a time

// Of the activations of kPanelRows rows: room for 16 bits each.
constexpr int64_t panel_bytes(int64_t k_pad) { return 2 * kPanelRows * k_pad; }

// The types of the kernels. A folder of an instruction set declares its kernels by them (instruction_sets.h).

// Dynamic per-token symmetric int8: amax = max|v|, scale = amax / 127, q = rint(v * (127 / amax)), half to even, where
// v[c] = x[c] * input_scale[c], rounded in fp32; input_scale, [k], may be nullptr: v is x. A row with amax < 1e-30
// gives q = 0 and scale = amax / 127; a row of v holding NaN or infinity gives q = 0 and scale = NaN. q rows are ld_q
// apart, with zeros in columns [k, k_pad); group_sum may be nullptr.
using QuantizeRowsFn = void(const void* x, DType type, int64_t ld_x, const float* input_scale, int64_t rows, int64_t k,
                            int64_t k_pad, int8_t* q, int64_t ld_q, float* scale, int32_t* group_sum);

// Packed weights x quantized rows. gemm_two_level: 4-bit weights with integer group scales, which gives the bits of
// gemm_w8a8 with the int8 weights group_scale * (u - zero).
using GemmFn = void(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);

// Of GemmRange::panel, what a GEMM needs.
using PanelBytesFn = int64_t(int64_t k_pad);

// out[r, c] = x[r, c] for c < k, fp32 or bf16 (nearest even), and 0 for the columns from there to ld_out. With
// input_scale, [k], it is x[r, c] * input_scale[c], rounded in fp32 and then to bf16; it may be nullptr.
using ConvertRowsFn = void(const void* x, DType type, int64_t ld_x, const float* input_scale, int64_t rows, int64_t k,
                           void* out, DType out_type, int64_t ld_out);

// Weights of 8, 4 or 2 bits, float activations. gemm_a16, with fp32 rows: over k in order, acc = fma(x[r, k], float(q -
// zero), acc). 8 bits: acc * scale_w[c]. 4 and 2 bits: every group has an acc of its own, and sum = fma(acc, scale_w[g,
// c], sum) over the groups in order. Then bias, activation and residual as above. gemm_a16_bf16, with bf16 rows: the
// products are exact and the order of the fp32 sums is the processor's.
using GemmFloatFn = void(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& r);

// Weights with many zeros (sparse.h): the bits of gemm_w8a8 with the same weights. False: the packed weight is
// damaged and what has been written is no result; nothing outside the buffers has been touched.
//
// arrange_rows lays out the activations of rows [m_begin, m_end) for gemm_blocks, each instruction set in its own
// way: m_begin is a multiple of kPanelRows, and rows [r, r + kPanelRows) have panel_bytes() bytes from panels + r /
// kPanelRows * panel_bytes(k_pad) on. gemm_blocks then takes exactly these rows.
using ArrangeRowsFn = void(const QuantizedRows& a, int64_t m_begin, int64_t m_end, uint8_t* panels);
using GemmBlocksFn = bool(const SparseLinear& w, const QuantizedRows& a, const uint8_t* panels, const Epilogue& e,
                          const GemmRange& r);
// The dense form of one column tile of a mask in the layout of packed.h: int8 [kTileN * k_pad].
using ExpandMaskFn = bool(const SparseLinear& w, int64_t tile, int8_t* dense);
// The product without a dense form in memory.
using GemmMaskFn = bool(const SparseLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r);

// y = (x - mean) / sqrt(var + eps) * gamma + beta over n columns, fp32; y may be x.
using LayerNormFn = void(const float* x, int64_t ld_x, const float* gamma, const float* beta, float eps, int64_t rows,
                         int64_t n, float* y, int64_t ld_y);

// softmax(Q K^T * scaling + bias) V for heads [head_begin, head_end). The kernels of avx512bf16 and amx round Q *
// scaling, K, V and the weights e^(score - largest) to bf16; all others compute in fp32.
using AttentionFn = void(const AttentionArgs& a, int32_t head_begin, int32_t head_end);

// out[c] += row[c] * scale, c < n: one row of an int8 embedding table.
using AddScaledInt8Fn = void(const int8_t* row, float scale, int64_t n, float* out);

// Rotary position embedding (Su et al. 2021) of `heads` heads of one token, each 2 * half wide, in place: the pair
// (x[i], x[half + i]) turns by the angle whose cosine and sine are given.
using RotateFn = void(float* x, const float* cosine, const float* sine, int64_t half, int64_t heads);

// x[r, c] = activation(x[r, c]) * x[r, n + c] for c < n: the gate of a gated feed-forward network (Shazeer 2020).
using GateFn = void(float* x, int64_t ld, int64_t rows, int64_t n, Activation activation);

// What a core can do at best. They only compute: the clock is read in roofline.cpp.
using BurstFn = int64_t(int64_t rounds);                     // returns the operations carried out
using ReadAllFn = uint64_t(const uint8_t* p, size_t bytes);  // bytes is a multiple of 512, p of 64

// A GEMM, and another one that is faster for up to `few_rows` rows: tiles take longer to fill than few rows to
// multiply.
struct Gemm {
  GemmFn* kernel;
  int64_t few_rows = 0;
  GemmFn* few = nullptr;

  void operator()(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& r) const {
    (few != nullptr && r.m_end - r.m_begin <= few_rows ? few : kernel)(w, a, e, r);
  }
};

struct Kernels {
  const char* isa;      // "reference", "avx2", ...
  const Kernels* base;  // the set that this one extends: what it does not replace is that one's; nullptr: none

  int64_t tile_rows;  // products are best divided among threads in multiples of so many rows
  // Rows of a transformer that go through several steps while they are in the cache. Tiles are fast
  // enough to wait for the second level: fewer rows leave more of it to the weights.
  int64_t row_block;

  QuantizeRowsFn* quantize_rows;

  PanelBytesFn* w8a8_panel_bytes;  // nullptr: gemm_w8a8 needs nothing
  Gemm gemm_w8a8, gemm_w4a8, gemm_w2a8, gemm_two_level;

  ConvertRowsFn* convert_rows;
  GemmFloatFn* gemm_a16;
  int64_t bf16_rows;  // calls with at least that many fp32 or bf16 rows should use gemm_a16_bf16; 0: there is none
  GemmFloatFn* gemm_a16_bf16;

  ArrangeRowsFn* arrange_rows;
  GemmBlocksFn* gemm_blocks;
  ExpandMaskFn* expand_mask;
  int64_t mask_rows;  // up to so many rows gemm_mask is faster than expand_mask and gemm_w8a8; 0: there is none
  GemmMaskFn* gemm_mask;

  LayerNormFn* layer_norm;
  AttentionFn* attention;
  AddScaledInt8Fn* add_scaled_int8;
  RotateFn* rotate;
  GateFn* gate;

  ConvFn* conv;  // networks of convolutions: convolution.h
  DepthwiseFn* depthwise;
  MaxWindowFn* max_window;
  AverageWindowFn* average_window;
  AddCodesFn* add_codes;
  MultiplyCodesFn* multiply_codes;
  LookUpFn* look_up;
  QuantizePixelsFn* quantize_pixels;

  BurstFn* int8_burst;  // ceilings, for the benchmarks (roofline.h); nullptr: none
  ReadAllFn* read_all;
};

// The GEMM with int8 activations for the format of these weights.
inline const Gemm& gemm_of(const Kernels& kernels, const PackedLinear& w) {
  if (w.group_scale != nullptr) return kernels.gemm_two_level;
  return w.bits == 8 ? kernels.gemm_w8a8 : w.bits == 4 ? kernels.gemm_w4a8 : kernels.gemm_w2a8;
}

// What the GEMM for these weights needs: one tile of two-level weights may become int8 there.
inline int64_t panel_bytes(const Kernels& kernels, const PackedLinear& w) {
  if (w.group_scale != nullptr) return kTileN * w.k_pad;
  return w.bits == 8 && kernels.w8a8_panel_bytes != nullptr ? kernels.w8a8_panel_bytes(w.k_pad) : 0;
}

// The tables of this build (tables.cpp), slowest first: reference, and the sets of its architecture that it was built
// for.
const std::vector<const Kernels*>& built_kernels();
const Kernels* reference_kernels();

}  // namespace kdnative::cpu
