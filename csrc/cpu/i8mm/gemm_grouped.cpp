// 4-bit and 2-bit weights x int8 with smmla: blocks of up to 6 rows x 16 columns.
//
// A piece of a 32-column tile is unpacked once to int8 (u - zero), 16 columns to one panel and 16 to another, and
// reused by all rows of a chunk. Every group ends as int32 and is scaled into fp32 sums on the stack.
#include "../instruction_sets.h"
#include "../neon/codes.h"
#include "../simd/vec_neon.h"
// These are written against Vec and come after it.
#include "../simd/epilogue.h"
#include "products.h"

namespace kdnative::cpu::i8mm {
namespace {

constexpr int64_t kPieceK = 512;  // a multiple of every group

struct Workspace {
  alignas(64) int8_t panel[2][kPieceK * kPanelColumns];
  alignas(64) float sums[kRowChunk * kTileN];
};

// Zero points of columns 4 j .. 4 j + 3 of 16, each repeated for the four k of a quad.
inline int8x16_t zero_bytes(const uint8_t* zero, int64_t j) {
  constexpr uint8_t kColumn[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  const uint8x16_t column = vaddq_u8(vld1q_u8(kColumn), vdupq_n_u8(static_cast<uint8_t>(4 * j)));
  return vreinterpretq_s8_u8(vqtbl1q_u8(vld1q_u8(zero), column));
}

// Columns [k, k + depth), whole groups, of a tile.
template <int bits>
void unpack(const PackedLinear& w, int64_t tile, int64_t k, int64_t depth, Workspace& work) {
  // From a quad of k to the next: 64 bytes with one quad each, or the upper bits of the same bytes.
  constexpr int kBytes = bits == 4 ? 64 : 0, kShift = bits == 4 ? 0 : 2 * bits;
  for (int64_t at = 0; at < depth; at += w.group) {
    const uint8_t* zero = w.zero + (k + at) / w.group * w.n_pad + tile * kTileN;
    for (int64_t j = 0; j < 4; ++j) {
      const uint8_t* from = w.data + (tile * w.k_pad + k + at) * 4 * bits + 16 * j;
      const int8x16_t zero0 = zero_bytes(zero, j), zero1 = zero_bytes(zero + 16, j);
      for (int64_t i = at; i < at + w.group; i += 8, from += 32 * bits) {
        const uint8x16_t quad = vld1q_u8(from), next = vld1q_u8(from + kBytes);
        const int64_t to = i * kPanelColumns + 32 * j;
        put_columns(vsubq_s8(codes<0, bits>(quad), zero0), vsubq_s8(codes<kShift, bits>(next), zero0),
                    work.panel[0] + to);
        put_columns(vsubq_s8(codes<bits, bits>(quad), zero1), vsubq_s8(codes<kShift + bits, bits>(next), zero1),
                    work.panel[1] + to);
      }
    }
  }
}

// Columns [k, k + depth) of rows [r, r + rows) and the 16 columns of a panel from c on, added to sums.
template <int pairs>
void block(const PackedLinear& w, const QuantizedRows& a, int64_t r, int64_t rows, int64_t c, int64_t k, int64_t depth,
           const int8_t* panel, float* sums) {
  for (int64_t at = 0; at < depth; at += w.group) {
    const float* scale = w.scale + (k + at) / w.group * w.n_pad + c;
    const bool first = k + at == 0;
    Sums<pairs> sum;
    multiply<pairs>(a, r, rows, k + at, w.group, panel + at * kPanelColumns, sum);
    for_sums<pairs>(sum, rows, [&](int64_t i, int64_t j, int32x4_t x) {
      float* to = sums + i * kTileN + j;
      const float32x4_t before = first ? vdupq_n_f32(0.0f) : vld1q_f32(to);
      vst1q_f32(to, vfmaq_f32(before, vcvtq_f32_s32(x), vld1q_f32(scale + j)));
    });
  }
}

// Rows [m, end) of a column tile.
template <int bits>
void column_tile(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t m, int64_t end, int64_t tile,
                 Workspace& work) {
  for (int64_t k = 0; k < w.k; k += kPieceK) {
    const int64_t depth = w.k - k < kPieceK ? w.k - k : kPieceK;
    const bool last = k + depth == w.k;
    unpack<bits>(w, tile, k, depth, work);
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t c = tile * kTileN + half * kPanelColumns;
      for_pairs(m, end, [&](int64_t r, int64_t rows, auto pairs) {
        float* sums = work.sums + (r - m) * kTileN + half * kPanelColumns;
        if (last) fetch_output(e, r, rows, c, kPanelColumns);
        block<pairs.count>(w, a, r, rows, c, k, depth, work.panel[half], sums);
        if (last) write_scaled(w, a, e, r, rows, c, kPanelColumns, sums, kTileN);
      });
    }
  }
}

template <int bits>
void gemm(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  Workspace work;
  for_chunks(range, [&](int64_t m, int64_t end) {
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) column_tile<bits>(w, a, e, m, end, tile, work);
  });
}

}  // namespace

void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm<4>(w, a, e, range);
}

void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm<2>(w, a, e, range);
}

}  // namespace kdnative::cpu::i8mm
