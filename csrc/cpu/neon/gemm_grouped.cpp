// 4-bit and 2-bit weights x int8 with dot products: blocks of up to 4 rows x (8 columns of the first 16 + 8 of the
// second).
//
// The codes u in [0, 2^bits) are signed bytes as they are; the zero points come out with the sums of the activations,
// which the quantizer left behind.
#include "../simd/vec_neon.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "../simd/blocks.h"
#include "../simd/epilogue.h"
#include "codes.h"
#include "dot.h"

namespace kdnative::cpu::neon {
namespace {

constexpr int kMaxRows = 4;  // 16 integer sums; the scaled ones wait in memory during a group

// Four columns of the block each: 0 and 1 among the first 16 columns of the tile, 2 and 3 among the second.
constexpr int kParts = 4;
inline int64_t part_column(int64_t c, int part) { return c + part / 2 * 16 + part % 2 * 4; }

// -zero of four columns from c on. Times the sum of the activations of the group, the sums of a * u start from it.
inline int32x4_t minus_zero(const PackedLinear& w, int64_t g, int64_t c) {
  uint32_t bytes;
  std::memcpy(&bytes, w.zero + g * w.n_pad + c, sizeof(bytes));
  const uint16x4_t zero = vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes))));
  return vnegq_s32(vreinterpretq_s32_u32(vmovl_u16(zero)));
}

// dot[s][i] += the products of row i over `columns` columns of k; b and q point to the first.
template <int bits, int rows, int chains>
inline void multiply(const uint8_t* b, const int8_t* q, int64_t ld_q, int64_t columns,
                     int32x4_t (&dot)[chains][rows][kParts]) {
  constexpr int kQuads = 4 / bits;  // of k, in 64 bytes of codes
  for (int64_t k = 0; k < columns; k += 16, b += 64 * bits) {
    int8x16_t x[rows];
    for (int i = 0; i < rows; ++i) x[i] = vld1q_s8(q + i * ld_q + k);
    for_lanes([&](auto lane) {
      constexpr int quad = lane.index, chain = quad % chains, shift = quad % kQuads * 2 * bits;
      for (int j = 0; j < 2; ++j) {
        const uint8x16_t packed = vld1q_u8(b + quad / kQuads * 64 + 16 * j);
        const int8x16_t first = codes<shift, bits>(packed), second = codes<shift + bits, bits>(packed);
        for (int i = 0; i < rows; ++i) {
          dot[chain][i][j] = add_products<quad>(dot[chain][i][j], first, x[i]);
          dot[chain][i][2 + j] = add_products<quad>(dot[chain][i][2 + j], second, x[i]);
        }
      }
    });
  }
}

template <int bits, int rows>
void block(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t r, int64_t tile, int64_t half) {
  constexpr int kChains = rows == 1 ? 4 : rows == 2 ? 2 : 1;  // short blocks would wait for the latency of sdot
  const int64_t c = tile * kTileN + half * 8, columns = w.group;
  const uint8_t* b = w.data + tile * w.k_pad * 4 * bits + half * 32;
  const int8_t* q = a.q + r * a.ld;
  for (int64_t j = 0; j < 2; ++j) fetch_output(e, r, rows, c + 16 * j, 8);
  float32x4_t sum[rows][kParts];
  for (int i = 0; i < rows; ++i)
    for (int p = 0; p < kParts; ++p) sum[i][p] = vdupq_n_f32(0.0f);
  for (int64_t g = 0; g * columns < w.k; ++g) {
    int32x4_t dot[kChains][rows][kParts];
    for (int p = 0; p < kParts; ++p) {
      const int32x4_t start = minus_zero(w, g, part_column(c, p));
      for (int i = 0; i < rows; ++i) {
        dot[0][i][p] = vmulq_n_s32(start, group_total(a, r + i, g * columns, columns));
        for (int s = 1; s < kChains; ++s) dot[s][i][p] = vdupq_n_s32(0);
      }
    }
    multiply<bits>(b + g * columns * 4 * bits, q + g * columns, a.ld, columns, dot);
    for (int p = 0; p < kParts; ++p) {
      const float32x4_t scale = vld1q_f32(w.scale + g * w.n_pad + part_column(c, p));
      for (int i = 0; i < rows; ++i) {
        for (int s = 1; s < kChains; ++s) dot[0][i][p] = vaddq_s32(dot[0][i][p], dot[s][i][p]);
        sum[i][p] = vfmaq_f32(sum[i][p], vcvtq_f32_s32(dot[0][i][p]), scale);
      }
    }
  }
  float out[2][rows][8];
  for (int i = 0; i < rows; ++i)
    for (int p = 0; p < kParts; ++p) vst1q_f32(out[p / 2][i] + p % 2 * 4, sum[i][p]);
  for (int64_t j = 0; j < 2; ++j) write_scaled(w, a, e, r, rows, c + 16 * j, 8, out[j][0], 8);
}

template <int bits>
void gemm(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk) {
    const int64_t end = m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end;
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      for (int64_t half = 0; half < 2; ++half) {
        for_row_blocks<kMaxRows>(m, end,
                                 [&](int64_t r, auto rows) { block<bits, rows.count>(w, a, e, r, tile, half); });
      }
    }
  }
}

}  // namespace

void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm<4>(w, a, e, range);
}

void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm<2>(w, a, e, range);
}

}  // namespace kdnative::cpu::neon
