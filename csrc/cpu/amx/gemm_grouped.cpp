// 4-bit and 2-bit weights x int8 on AMX: a piece of a 32-column panel is unpacked once to int8 (u - zero) and reused by
// all rows of a chunk. One tile of 16 x 16 outputs is computed at a time, its fp32 sums in 16 registers: the int32 sums
// of a group leave through 1 KiB of memory and are scaled while the tiles of the next groups multiply. Blocks of four
// tiles would load half as much, but store and load their fp32 sums in every group, which costs twice as much.
#include "../instruction_sets.h"
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/epilogue.h"
#include "tiles.h"

namespace kdnative::cpu::amx {
namespace {

constexpr int64_t kPieceK = 512;  // 16 KiB of unpacked weights; a multiple of every group
constexpr int kRows = 16;         // of a tile
constexpr int64_t kLag = 2;  // groups between multiplying and scaling one: its sums have left for the cache by then
constexpr int kGroups = 4;   // whose tiles take turns

struct Workspace {
  alignas(64) int8_t weights[2][kPieceK * 16];
  alignas(64) float scale[kPieceK / 32][kTileN];      // of the piece; in the buffer they lie whole pages apart
  alignas(64) int32_t dot[kGroups][kRows * 16] = {};  // rows that a call lacks stay zero
  alignas(64) float sums[kChunkRows * kBlockColumns];
};

// Zero points of 16 columns, each repeated for the four k of a quad.
inline __m512i zero_bytes(const uint8_t* zero) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(zero));
  return _mm512_mullo_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(0x01010101));
}

// Columns [k, k + depth) of the panel of a tile.
template <int bits>
void unpack(const PackedLinear& w, int64_t tile, int64_t k, int64_t depth, Workspace& work) {
  constexpr int kQuads = 4 / bits;  // of k, in 64 bytes
  const uint8_t* packed = w.data + (tile * w.k_pad + k) * 4 * bits;
  const __m512i mask = _mm512_set1_epi8((1 << bits) - 1);
  for (int64_t at = 0; at < depth; at += w.group) {
    const uint8_t* zero = w.zero + (k + at) / w.group * w.n_pad + tile * kTileN;
    const __m512i zero0 = zero_bytes(zero), zero1 = zero_bytes(zero + 16);
    const float* scale = w.scale + (k + at) / w.group * w.n_pad + tile * kTileN;
    for (int64_t c = 0; c < kTileN; c += 16) Vec::load(scale + c).store(work.scale[at / w.group] + c);
    for (int64_t column = at; column < at + w.group; column += 4 * kQuads) {
      __m512i codes = _mm512_loadu_si512(packed + column * 4 * bits);
      for (int64_t quad = column * 16; quad < (column + 4 * kQuads) * 16; quad += 64) {
        const __m512i second = _mm512_srli_epi16(codes, bits);
        _mm512_store_si512(work.weights[0] + quad, _mm512_sub_epi8(_mm512_and_si512(codes, mask), zero0));
        _mm512_store_si512(work.weights[1] + quad, _mm512_sub_epi8(_mm512_and_si512(second, mask), zero1));
        codes = _mm512_srli_epi16(second, bits);
      }
    }
  }
}

// Multiplies group g, the one of tile `turn` among four, and scales an earlier one. A group has one or two steps, each
// with a tile of A and one of B. Tile numbers must be constants, so this is a macro.
#define KDNATIVE_GROUP(turn, a0, b0, a1, b1, g)                     \
  do {                                                              \
    const int8_t *a = a_ + (g) * group, *b = b_ + (g) * group * 16; \
    _tile_zero(turn);                                               \
    _tile_loadd(a0, a, lda_);                                       \
    _tile_loadd(b0, b, 64);                                         \
    _tile_dpbssd(turn, a0, b0);                                     \
    if constexpr (group > kStep) {                                  \
      _tile_loadd(a1, a + kStep, lda_);                             \
      _tile_loadd(b1, b + kStep * 16, 64);                          \
      _tile_dpbssd(turn, a1, b1);                                   \
    }                                                               \
    _tile_stored(turn, work_.dot[turn], 64);                        \
    if ((g) >= kLag) scale((g) - kLag);                             \
  } while (false)

// Columns [k, k + depth) of one tile: rows [r, r + 16) and one half of the columns that are unpacked. Row i of the sums
// is sums + i * kBlockColumns; all 16 are written.
template <int64_t group>
class Tile {
 public:
  Tile(const QuantizedRows& a, int64_t r, int64_t k, int64_t half, Workspace& work)
      : work_(work), a_(a.q + r * a.ld + k), lda_(a.ld), b_(work.weights[half]), scale_(work.scale[0] + 16 * half) {}

  void multiply(int64_t depth, bool first, float* sums) {
    static_assert(group <= 2 * kStep, "two steps at most");
    __asm__ volatile("" : : : "memory");  // tile loads do not tell the compiler that they read memory
    for (int i = 0; i < kRows; ++i) sum_[i] = first ? Vec::zero() : Vec::load(sums + i * kBlockColumns);
    const int64_t groups = depth / group;
    int64_t g = 0;
    for (; g + kGroups <= groups; g += kGroups) {
      KDNATIVE_GROUP(0, 4, 6, 5, 7, g);
      KDNATIVE_GROUP(1, 5, 7, 4, 6, g + 1);
      KDNATIVE_GROUP(2, 4, 6, 5, 7, g + 2);
      KDNATIVE_GROUP(3, 5, 7, 4, 6, g + 3);
    }
    if (g < groups) KDNATIVE_GROUP(0, 4, 6, 5, 7, g);
    if (g + 1 < groups) KDNATIVE_GROUP(1, 5, 7, 4, 6, g + 1);
    if (g + 2 < groups) KDNATIVE_GROUP(2, 4, 6, 5, 7, g + 2);
    for (int64_t rest = groups > kLag ? groups - kLag : 0; rest < groups; ++rest) scale(rest);
    for (int i = 0; i < kRows; ++i) sum_[i].store(sums + i * kBlockColumns);
  }

 private:
  static constexpr int64_t kStep = group < 64 ? group : 64;

  // sum = fma(dot, scale, sum)
  void scale(int64_t g) {
    __asm__ volatile("" : : : "memory");  // tile stores do not tell the compiler that they write memory
    const int32_t* dot = work_.dot[g % kGroups];
    const Vec scale = Vec::load(scale_ + g * kTileN);
    for (int i = 0; i < kRows; ++i) sum_[i] = fma(Vec::load_s32(dot + i * 16), scale, sum_[i]);
  }

  Workspace& work_;
  const int8_t* a_;
  const int64_t lda_;
  const int8_t* b_;
  const float* scale_;
  Vec sum_[kRows];
};

// Rows [m, end) of one column tile.
template <int bits, int64_t group>
void column_tile(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t m, int64_t end, int64_t tile,
                 bool more_tiles, Tiles& tiles, Workspace& work) {
  const int64_t c = tile * kTileN, blocks = (end - m + kRows - 1) / kRows;
  for (int64_t k = 0; k < w.k; k += kPieceK) {
    const int64_t depth = smaller(kPieceK, w.k - k);
    const bool last = k + depth == w.k;
    unpack<bits>(w, tile, k, depth, work);
    const uint8_t* next = w.data + (last ? (tile + 1) * w.k_pad : tile * w.k_pad + k + depth) * 4 * bits;
    const int64_t bytes = last && !more_tiles ? 0 : depth * 2 * bits;
    Prefetch prefetch(next, next + bytes, bytes, blocks);
    for (int64_t r = m; r < end; r += kRows) {
      const int64_t rows = smaller(kRows, end - r);
      float* sums = work.sums + (r - m) * kBlockColumns;
      tiles.shape(rows, rows, group < 64 ? group : 64);
      if (last) fetch_output(e, r, rows, c, kTileN);
      Tile<group>(a, r, k, 0, work).multiply(depth, k == 0, sums);
      Tile<group>(a, r, k, 1, work).multiply(depth, k == 0, sums + 16);
      prefetch.step();
      if (last) write_scaled(w, a, e, r, rows, c, kTileN, sums, kBlockColumns);
    }
  }
}

#undef KDNATIVE_GROUP

template <int bits, int64_t group>
void gemm_of_group(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  Workspace work;
  Tiles tiles;
  for (int64_t m = range.m_begin; m < range.m_end; m += kChunkRows) {
    const int64_t end = smaller(m + kChunkRows, range.m_end);
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      column_tile<bits, group>(w, a, e, m, end, tile, tile + 1 < range.tile_end, tiles, work);
    }
  }
}

template <int bits>
void gemm(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  const auto f = w.group == 32   ? gemm_of_group<bits, 32>
                 : w.group == 64 ? gemm_of_group<bits, 64>
                                 : gemm_of_group<bits, 128>;
  f(w, a, e, range);
}

}  // namespace

void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm<4>(w, a, e, range);
}

void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm<2>(w, a, e, range);
}

}  // namespace kdnative::cpu::amx
