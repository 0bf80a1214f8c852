// int8 x int8 with smmla: blocks of up to 6 rows x 16 columns.
//
// A column panel is cut along k so that the piece stays in L1 while all rows of a chunk pass by; sums of an unfinished
// k wait on the stack.
#include "../instruction_sets.h"
#include "../simd/vec_neon.h"
// These are written against Vec and come after it.
#include "../simd/epilogue.h"
#include "products.h"

namespace kdnative::cpu::i8mm {
namespace {

constexpr int64_t kPieceK = 1024;

struct Workspace {
  alignas(64) int8_t panel[kPieceK * kPanelColumns];
  alignas(64) int32_t sums[kRowChunk * kPanelColumns];
};

void fill_panel(const int8_t* b, int64_t depth, int8_t* panel) {
  for (int64_t k = 0; k < depth; k += 8, b += 128, panel += 128) {
    for (int64_t j = 0; j < 64; j += 16) put_columns(vld1q_s8(b + j), vld1q_s8(b + 64 + j), panel + 2 * j);
  }
}

// Rows [m, end) of the 16 columns from c on.
void column_panel(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t m, int64_t end, int64_t c,
                  Workspace& work) {
  const int8_t* b = reinterpret_cast<const int8_t*>(w.data) + c * w.k_pad;
  for (int64_t k = 0; k < w.k_pad; k += kPieceK) {
    const int64_t depth = w.k_pad - k < kPieceK ? w.k_pad - k : kPieceK;
    fill_panel(b + k * kPanelColumns, depth, work.panel);
    for_pairs(m, end, [&](int64_t r, int64_t rows, auto pairs) {
      int32_t* sums = work.sums + (r - m) * kPanelColumns;
      const bool last = k + depth == w.k_pad;
      if (last) fetch_output(e, r, rows, c, kPanelColumns);
      Sums<pairs.count> sum;
      multiply<pairs.count>(a, r, rows, k, depth, work.panel, sum);
      for_sums<pairs.count>(sum, rows, [&](int64_t i, int64_t j, int32x4_t x) {
        int32_t* to = sums + i * kPanelColumns + j;
        vst1q_s32(to, k == 0 ? x : vaddq_s32(vld1q_s32(to), x));
      });
      if (last) write_sums(w, a, e, r, rows, c, kPanelColumns, sums, kPanelColumns);
    });
  }
}

}  // namespace

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  Workspace work;
  for_chunks(range, [&](int64_t m, int64_t end) {
    for (int64_t c = range.tile_begin * kTileN; c < range.tile_end * kTileN && c < w.n; c += kPanelColumns) {
      column_panel(w, a, e, m, end, c, work);
    }
  });
}

}  // namespace kdnative::cpu::i8mm
