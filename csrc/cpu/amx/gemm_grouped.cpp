// 4-bit and 2-bit weights x int8 on AMX: a piece of a 32-column panel is unpacked once to int8 (u - zero) and reused by
// all rows of a chunk; every group ends as int32 in a small block that is scaled into fp32 while the next group
// multiplies.
#include "../avx512vnni/avx512vnni.h"
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../simd/epilogue.h"
#include "amx.h"
#include "tiles.h"

namespace kdnative::cpu::amx {
namespace {

constexpr int64_t kVnniRows = 8;  // up to here unpacking for the tiles costs more than it saves
constexpr int64_t kPieceK = 512;  // 16 KiB of unpacked weights; a multiple of every group
constexpr int64_t kBlock = kBlockRows * kBlockColumns;

struct Workspace {
  alignas(64) int8_t weights[2][kPieceK * 16];
  alignas(64) int32_t dot[2][kBlock];  // of this group and of the one before
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

// sums = fma(dot, scale, sums), or from zero for the first group.
inline void add_group(const int32_t* dot, const float* scale, int64_t rows, bool first, float* sums) {
  const Vec scale0 = Vec::load(scale), scale1 = Vec::load(scale + 16);
  for (int64_t i = 0; i < rows * kBlockColumns; i += kBlockColumns) {
    const Vec sum0 = first ? Vec::zero() : Vec::load(sums + i), sum1 = first ? Vec::zero() : Vec::load(sums + i + 16);
    fma(Vec::load_s32(dot + i), scale0, sum0).store(sums + i);
    fma(Vec::load_s32(dot + i + 16), scale1, sum1).store(sums + i + 16);
  }
}

// Columns [k, k + depth) of a block of rows. Scaling lags one group behind, so tiles and vectors work at the same time.
void block(const PackedLinear& w, const QuantizedRows& a, int64_t r, int64_t rows, int64_t c, int64_t k, int64_t depth,
           Workspace& work, float* sums, Prefetch& prefetch) {
  const int64_t step = w.group < 64 ? w.group : 64, groups = depth / w.group;
  const auto scale = [&](int64_t g) {
    add_group(work.dot[g % 2], w.scale + (k / w.group + g) * w.n_pad + c, rows, k == 0 && g == 0, sums);
  };
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t at = g * w.group;
    const Product product = {a.q + r * a.k_pad + k + at,
                             a.k_pad,
                             {work.weights[0] + at * 16, work.weights[1] + at * 16},
                             w.group / step,
                             step};
    multiply(rows, product, false, work.dot[g % 2], prefetch);
    if (g > 0) scale(g - 1);
  }
  scale(groups - 1);
}

// Rows [m, end) of one column tile.
template <int bits>
void column_tile(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, int64_t m, int64_t end, int64_t tile,
                 bool more_tiles, Tiles& tiles, Workspace& work) {
  const int64_t step = w.group < 64 ? w.group : 64, c = tile * kTileN;
  const int64_t blocks = (end - m + kBlockRows - 1) / kBlockRows;
  for (int64_t k = 0; k < w.k; k += kPieceK) {
    const int64_t depth = smaller(kPieceK, w.k - k);
    const bool last = k + depth == w.k;
    unpack<bits>(w, tile, k, depth, work);
    const uint8_t* next = w.data + (last ? (tile + 1) * w.k_pad : tile * w.k_pad + k + depth) * 4 * bits;
    const int64_t bytes = last && !more_tiles ? 0 : depth * 2 * bits;
    Prefetch prefetch(next, next + bytes, bytes, blocks * (depth / step));
    for (int64_t r = m; r < end; r += kBlockRows) {
      const int64_t rows = smaller(kBlockRows, end - r);
      float* sums = work.sums + (r - m) * kBlockColumns;
      tiles.shape(rows, step);
      if (last) fetch_output(e, r, rows, c, kTileN);
      block(w, a, r, rows, c, k, depth, work, sums, prefetch);
      if (last) write_scaled(w, a, e, r, rows, c, kTileN, sums, kBlockColumns);
    }
  }
}

template <int bits>
void gemm(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  Workspace work;
  Tiles tiles;
  for (int64_t m = range.m_begin; m < range.m_end; m += kChunkRows) {
    const int64_t end = smaller(m + kChunkRows, range.m_end);
    for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
      column_tile<bits>(w, a, e, m, end, tile, tile + 1 < range.tile_end, tiles, work);
    }
  }
}

bool few(const GemmRange& range) { return range.m_end - range.m_begin <= kVnniRows; }

}  // namespace

void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  (few(range) ? avx512vnni::gemm_w4a8 : gemm<4>)(w, a, e, range);
}

void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  (few(range) ? avx512vnni::gemm_w2a8 : gemm<2>)(w, a, e, range);
}

}  // namespace kdnative::cpu::amx
