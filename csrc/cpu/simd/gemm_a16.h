// Packed weights x float activations over Vec. Include it after one vec_*.h.
//
// Few rows: the weights are streamed once, widened in registers. More rows: a piece of a 32-column panel is widened to
// fp32 once, in L1, and reused by all rows of a chunk. Both add in the order of ../kernels.h, so a row's result does
// not depend on the rows beside it.
#pragma once

#include <utility>

#include "blocks.h"
#include "epilogue.h"

namespace kdnative::cpu {
namespace {

constexpr int kStreamRows = 4;                 // up to here weights are widened in registers
constexpr int64_t kPieceK = 128;               // 16 KiB of widened weights; a multiple of every group
constexpr int64_t kPerTile = 16 / Vec::width;  // pairs in a tile

// Columns of k in 64 bytes of one 32-column tile (8 bits: of each 16 columns).
template <int bits>
constexpr int kStep = bits == 8 ? 4 : 16 / bits;

// f(0) .. f(n - 1) with constants of the program.
template <typename F, int... i>
[[gnu::always_inline]] inline void for_constants(std::integer_sequence<int, i...>, const F& f) {
  (f(std::integral_constant<int, i>{}), ...);
}

// A pair is two vectors of columns of one tile: c .. c + width among its first sixteen, and the sixteenth after each.
struct Pair {
  Pair(const PackedLinear& w, int64_t index)
      : column(index / kPerTile * kTileN + index % kPerTile * Vec::width),
        data(w.data + index / kPerTile * w.k_pad * 4 * w.bits + index % kPerTile * Vec::width * 4) {}
  int64_t column;
  const uint8_t* data;
};

// The zero points of the pair in group g; 8 bits have none.
template <int bits>
inline void load_zeros(const PackedLinear& w, const Pair& p, int64_t g, Vec (&zero)[2]) {
  for (int j = 0; j < 2 && bits != 8; ++j) {
    const auto* at = reinterpret_cast<const int8_t*>(w.zero + g * w.n_pad + p.column + 16 * j);  // at most 15
    zero[j] = w.symmetric ? Vec::set1(1 << (bits - 1)) : Vec::load_s8(at);
  }
}

// value[i][j] = q - zero of column k + i and half j of the pair; k is a multiple of the step.
template <int bits>
[[gnu::always_inline]] inline void widen(const PackedLinear& w, const Pair& p, int64_t k, const Vec (&zero)[2],
                                         Vec (&value)[kStep<bits>][2]) {
  const uint8_t* at = p.data + k * (bits == 8 ? 16 : 4 * bits);
  if constexpr (bits == 8) {
    for (int j = 0; j < 2; ++j) {
      const Word word = Word::load(at + j * 16 * w.k_pad);
      for_constants(std::make_integer_sequence<int, 4>{},
                    [&](auto i) { value[i][j] = signed_byte<8 * decltype(i)::value>(word); });
    }
  } else {
    const Word word = Word::load(at);
    for_constants(std::make_integer_sequence<int, kStep<bits>>{}, [&](auto i) {
      constexpr int shift = i % 4 * 8 + i / 4 * 2 * bits;
      value[i][0] = unsigned_field<shift, bits>(word) - zero[0];
      value[i][1] = unsigned_field<shift + bits, bits>(word) - zero[1];
    });
  }
}

// Fetches the codes of columns [k, k + depth) of a tile into L2, while those before are multiplied. Small weights are
// there already, and would pay for the instructions.
template <int bits>
inline void fetch_codes(const PackedLinear& w, int64_t tile, int64_t k, int64_t depth) {
  constexpr int64_t kBytes = bits == 8 ? 16 : 4 * bits;  // of a column of k
  constexpr int64_t kSmall = int64_t{1} << 20;
  if (w.n_pad * w.k_pad * bits / 8 < kSmall) return;
  const uint8_t* data = w.data + tile * w.k_pad * 4 * bits + k * kBytes;
  for (int64_t at = 0; at < depth * kBytes; at += 64) {
    __builtin_prefetch(data + at, 0, 2);
    if (bits == 8) __builtin_prefetch(data + 16 * w.k_pad + at, 0, 2);
  }
}

// `count` pairs, rows [r, r + rows).
template <int bits, int rows, int count>
void stream_block(const PackedLinear& w, const FloatRows& a, const Epilogue& e, int64_t r, const Pair (&pairs)[count]) {
  constexpr int step = kStep<bits>;
  const int64_t columns = bits == 8 ? w.k : w.group;
  const float* x = static_cast<const float*>(a.x) + r * a.ld;
  Vec sum[count][rows][2];
  for (int p = 0; p < count; ++p)
    for (int i = 0; i < rows; ++i) sum[p][i][0] = sum[p][i][1] = Vec::zero();
  for (int64_t g = 0; g * columns < w.k; ++g) {
    Vec dot[count][rows][2], zero[count][2];
    for (int p = 0; p < count; ++p) {
      load_zeros<bits>(w, pairs[p], g, zero[p]);
      for (int i = 0; i < rows; ++i) dot[p][i][0] = dot[p][i][1] = Vec::zero();
    }
    const auto add = [&](int64_t k, int64_t depth) {
      for (int p = 0; p < count; ++p) {
        Vec value[step][2];
        widen<bits>(w, pairs[p], k, zero[p], value);
        for (int64_t s = 0; s < depth; ++s) {
          for (int i = 0; i < rows; ++i) {
            const Vec broadcast = Vec::set1(x[i * a.ld + k + s]);
            for (int j = 0; j < 2; ++j) dot[p][i][j] = fma(broadcast, value[s][j], dot[p][i][j]);
          }
        }
      }
    };
    const int64_t end = (g + 1) * columns, whole = end / step * step;
    for (int64_t k = g * columns; k < whole; k += step) add(k, step);
    if (whole < end) add(whole, end - whole);
    for (int p = 0; p < count; ++p) {
      for (int j = 0; j < 2; ++j) {
        const Vec scale = Vec::load(w.scale + g * w.n_pad + pairs[p].column + 16 * j);
        for (int i = 0; i < rows; ++i)
          sum[p][i][j] = bits == 8 ? dot[p][i][j] * scale : fma(dot[p][i][j], scale, sum[p][i][j]);
      }
    }
  }
  alignas(64) float out[rows][Vec::width];
  for (int p = 0; p < count; ++p) {
    for (int j = 0; j < 2; ++j) {
      for (int i = 0; i < rows; ++i) sum[p][i][j].store(out[i]);
      write_floats(w, e, r, rows, pairs[p].column + 16 * j, Vec::width, out[0], Vec::width);
    }
  }
}

// Eight sums at a time, whatever the number of rows: they hide the latency of one.
template <int bits>
void stream(const PackedLinear& w, const FloatRows& a, const Epilogue& e, int64_t m, int64_t end,
            const GemmRange& range) {
  with_rows<kStreamRows>(end - m, [&](auto count) {
    constexpr int rows = decltype(count)::count, together = rows == 1 ? 4 : rows == 2 ? 2 : 1;
    int64_t p = range.tile_begin * kPerTile;
    const int64_t last = range.tile_end * kPerTile;
    if constexpr (together > 1) {
      for (; p + together <= last; p += together) {
        if constexpr (together == 4) {
          stream_block<bits, rows>(w, a, e, m, {{w, p}, {w, p + 1}, {w, p + 2}, {w, p + 3}});
        } else {
          stream_block<bits, rows>(w, a, e, m, {{w, p}, {w, p + 1}});
        }
      }
    }
    for (; p < last; ++p) stream_block<bits, rows, 1>(w, a, e, m, {{w, p}});
  });
}

// The register block of the panel: rows x vectors of columns.
constexpr int kVectors = Vec::width == 4 ? 4 : 2;
constexpr int kMaxRows = Vec::width == 16 ? 12 : Vec::width == 1 ? 4 : 6;
constexpr int64_t kColumns = kVectors * Vec::width;

struct Workspace {
  alignas(64) float weights[kPieceK][kTileN];
  alignas(64) float sums[kRowChunk][kTileN];
};

// Columns [k, k + depth) of a tile as fp32, in the order of its columns.
template <int bits>
void widen_piece(const PackedLinear& w, int64_t tile, int64_t k, int64_t depth, float (*to)[kTileN]) {
  for (int64_t index = 0; index < kPerTile; ++index) {
    const Pair p(w, tile * kPerTile + index);
    Vec zero[2] = {Vec::zero(), Vec::zero()};
    for (int64_t s = 0; s < depth; s += kStep<bits>) {  // the last step of 8 bits may reach into the padding
      if (bits != 8 && (k + s) % w.group == 0) load_zeros<bits>(w, p, (k + s) / w.group, zero);
      Vec value[kStep<bits>][2];
      widen<bits>(w, p, k + s, zero, value);
      for (int i = 0; i < kStep<bits>; ++i)
        for (int j = 0; j < 2; ++j) value[i][j].store(to[s + i] + index * Vec::width + 16 * j);
    }
  }
}

// sums of `rows` rows from x on, columns [c, c + kColumns) of the tile, columns [k, k + depth) of the reduction.
template <int bits, int rows>
inline void panel_block(const PackedLinear& w, const float* x, int64_t ld, int64_t k, int64_t depth,
                        const float (*weights)[kTileN], const float* scale, float (*sums)[kTileN]) {
  const int64_t columns = bits == 8 ? depth : w.group;
  for (int64_t at = 0; at < depth; at += columns) {
    Vec dot[rows][kVectors];
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < kVectors; ++j)
        dot[i][j] = bits == 8 && k > 0 ? Vec::load(sums[i] + j * Vec::width) : Vec::zero();
    for (int64_t s = at; s < at + columns; ++s) {
      Vec value[kVectors];
      for (int j = 0; j < kVectors; ++j) value[j] = Vec::load(weights[s] + j * Vec::width);
      for (int i = 0; i < rows; ++i) {
        const Vec broadcast = Vec::set1(x[i * ld + s]);
        for (int j = 0; j < kVectors; ++j) dot[i][j] = keep(fma(broadcast, value[j], dot[i][j]));
      }
    }
    const float* factor = bits == 8 ? nullptr : scale + (k + at) / w.group * w.n_pad;
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < kVectors; ++j) {
        Vec total = dot[i][j];
        if constexpr (bits != 8) {
          const Vec before = k + at == 0 ? Vec::zero() : Vec::load(sums[i] + j * Vec::width);
          total = fma(total, Vec::load(factor + j * Vec::width), before);
        }
        total.store(sums[i] + j * Vec::width);
      }
    }
  }
}

// Rows [m, end) of one tile.
template <int bits>
void panel(const PackedLinear& w, const FloatRows& a, const Epilogue& e, int64_t m, int64_t end, int64_t tile,
           Workspace& work) {
  const int64_t first = tile * kTileN;
  for (int64_t k = 0; k < w.k; k += kPieceK) {
    const int64_t depth = w.k - k < kPieceK ? w.k - k : kPieceK;
    widen_piece<bits>(w, tile, k, depth, work.weights);
    const bool more = k + depth < w.k;
    fetch_codes<bits>(w, more ? tile : tile + 1, more ? k + depth : 0, depth);
    for (int64_t c = 0; c < kTileN; c += kColumns) {
      for_row_blocks<kMaxRows>(m, end, [&](int64_t r, auto rows) {
        auto* weights = reinterpret_cast<const float (*)[kTileN]>(work.weights[0] + c);
        auto* sums = reinterpret_cast<float (*)[kTileN]>(work.sums[r - m] + c);
        panel_block<bits, rows.count>(w, static_cast<const float*>(a.x) + r * a.ld + k, a.ld, k, depth, weights,
                                      w.scale + first + c, sums);
      });
    }
  }
  if (bits == 8) {
    for (int64_t j = 0; j < kTileN; j += Vec::width) {
      const Vec scale = Vec::load(w.scale + first + j);
      for (int64_t r = 0; r < end - m; ++r) (Vec::load(work.sums[r] + j) * scale).store(work.sums[r] + j);
    }
  }
  write_floats(w, e, m, end - m, first, kTileN, work.sums[0], kTileN);
}

template <int bits>
void gemm_a16_of(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& range) {
  Workspace work;
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk) {
    const int64_t end = m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end;
    if (end - m <= kStreamRows) {
      stream<bits>(w, a, e, m, end, range);
      continue;
    }
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) panel<bits>(w, a, e, m, end, tile, work);
  }
}

}  // namespace
}  // namespace kdnative::cpu
