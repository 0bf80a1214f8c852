// int8 x int8 on AMX: 32 x 32 blocks, weights read as tiles straight from the packed buffer.
//
// A panel of 32 columns is cut along k so that the piece stays in L1 while all rows of a chunk pass by; sums of an
// unfinished k wait as int32 in a panel on the stack.
#include "../instruction_sets.h"
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/epilogue.h"
#include "tiles.h"

namespace kdnative::cpu::amx {
namespace {

constexpr int64_t kDepth = 64;     // columns of k of one step
constexpr int64_t kPieceK = 1024;  // 32 KiB of weights
constexpr int64_t kStepBytes = kDepth * 16;
constexpr int64_t kNearOutput = 1 << 18;  // elements; so much output may well be in L2 from the last time

// The block whose sums are complete: they become outputs between the steps of the blocks after it, a few rows at a
// time, so that tiles and vectors work at the same time.
class Outputs {
 public:
  Outputs(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e) : w_(w), a_(a), e_(e) {}

  // Rows [r, r + rows) of the 32 columns from c on, to be written within `steps` steps.
  void start(int64_t r, int64_t rows, int64_t c, const int32_t* sums, int64_t steps) {
    finish();
    row_ = r;
    end_ = r + rows;
    column_ = c;
    sums_ = sums;
    share_ = (rows + steps - 1) / steps;
  }
  void step() {
    if (row_ < end_) write(smaller(share_, end_ - row_));
  }
  void finish() {
    if (row_ < end_) write(end_ - row_);
  }

 private:
  void write(int64_t rows) {
    write_sums(w_, a_, e_, row_, rows, column_, kTileN, sums_, kBlockColumns);
    row_ += rows;
    sums_ += rows * kBlockColumns;
  }

  const PackedLinear& w_;
  const QuantizedRows& a_;
  const Epilogue& e_;
  int64_t row_ = 0, end_ = 0, column_ = 0, share_ = 0;
  const int32_t* sums_ = nullptr;
};

struct Between {
  Prefetch& prefetch;
  Outputs& outputs;
  void step() {
    prefetch.step();
    outputs.step();
  }
};

// Rows [m, end) of one column tile. `sums` has room for all of them; those of the tile before may wait elsewhere.
void column_tile(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t m, int64_t end, int64_t tile,
                 bool more_tiles, Tiles& tiles, int32_t* sums, Outputs& outputs) {
  const int64_t pieces = (w.k_pad + kPieceK - 1) / kPieceK;
  const int64_t piece = (w.k_pad / kDepth + pieces - 1) / pieces * kDepth;
  const int64_t blocks = (end - m + kBlockRows - 1) / kBlockRows;
  const bool far = (end - m) * e.ld_out > kNearOutput;
  const uint8_t* panel = w.data + tile * kTileN * w.k_pad;
  for (int64_t k = 0; k < w.k_pad; k += piece) {
    const int64_t steps = smaller(piece, w.k_pad - k) / kDepth;
    const bool last = k + steps * kDepth == w.k_pad;
    const uint8_t* next = last ? panel + kTileN * w.k_pad : panel + (k + piece) * 16;
    const bool fetch = blocks > 1 && (!last || more_tiles);  // one block reads them as fast as they can come
    Prefetch prefetch(next, next + 16 * w.k_pad, fetch ? steps * kStepBytes : 0, blocks * steps);
    Between between{prefetch, outputs};
    for (int64_t r = m; r < end; r += kBlockRows) {
      const int64_t rows = smaller(kBlockRows, end - r);
      tiles.shape(rows, kDepth);
      const auto* b = reinterpret_cast<const int8_t*>(panel) + k * 16;
      const Product product = {a.q + r * a.ld + k, a.ld, {b, b + 16 * w.k_pad}, steps, kDepth};
      // Two blocks of one piece take turns.
      int32_t* c = sums + (pieces == 1 ? (r - m) % (2 * kBlockRows) : r - m) * kBlockColumns;
      if (last && far) fetch_output(e, r, rows, tile * kTileN, kTileN);
      multiply(rows, product, k > 0, c, between);
      if (last) outputs.start(r, rows, tile * kTileN, c, steps);
    }
  }
}

}  // namespace

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  alignas(64) int32_t sums[2][kChunkRows * kBlockColumns];  // tiles take turns
  Tiles tiles;
  Outputs outputs(w, a, e);
  for (int64_t m = range.m_begin; m < range.m_end; m += kChunkRows) {
    const int64_t end = smaller(m + kChunkRows, range.m_end);
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      column_tile(w, a, e, m, end, tile, tile + 1 < range.tile_end, tiles, sums[tile % 2], outputs);
    }
  }
  outputs.finish();
}

}  // namespace kdnative::cpu::amx
