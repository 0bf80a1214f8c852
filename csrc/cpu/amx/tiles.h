// The 32 x 32 block of AMX, int8 or bf16: four C tiles (0..3), two of A (4, 5) and two of B (6, 7).
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

namespace kdnative::cpu {
namespace {

constexpr int64_t kBlockRows = 32, kBlockColumns = 32;
constexpr int64_t kChunkRows = 256;  // rows that reuse a panel of weights: their activations stay in L2

// Tile shapes of this thread. They are set in every call, because other libraries in the process use tiles as well, and
// released after it, because a thread with live tiles is slower to switch.
class Tiles {
 public:
  ~Tiles() { _tile_release(); }

  // Blocks of `rows` (1..32) rows in steps of `depth` (32 or 64) columns of k.
  void shape(int64_t rows, int64_t depth) {
    shape(rows < 16 ? rows : 16, rows > 16 ? rows - 16 : 16, depth);  // unused lower tiles: any shape
  }

  // C tiles 0, 1 and A tile 4 of `upper` rows, C tiles 2, 3 and A tile 5 of `lower` rows.
  void shape(int64_t upper, int64_t lower, int64_t depth) {
    if (upper == upper_ && lower == lower_ && depth == depth_) return;
    upper_ = upper;
    lower_ = lower;
    depth_ = depth;
    Config config = {};
    config.palette = 1;
    for (int t = 0; t < 4; ++t) set(config, t, t < 2 ? upper : lower, 64);
    set(config, 4, upper, depth);
    set(config, 5, lower, depth);
    for (int t = 6; t < 8; ++t) set(config, t, depth / 4, 64);
    __asm__ volatile("" : : "r"(&config) : "memory");  // the intrinsic does not say that it reads 64 bytes
    _tile_loadconfig(&config);
  }

 private:
  struct alignas(64) Config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
  static_assert(sizeof(Config) == 64, "the processor reads 64 bytes");

  static void set(Config& config, int tile, int64_t rows, int64_t row_bytes) {
    config.rows[tile] = static_cast<uint8_t>(rows);
    config.row_bytes[tile] = static_cast<uint16_t>(row_bytes);
  }

  int64_t upper_ = 0, lower_ = 0, depth_ = 0;
};

// Weights of the next block, fetched into L2 while this one computes: `pairs` of cache lines of each stream a step. The
// processor fetches the other line of a pair by itself, and every fetch takes the place of a load.
struct Prefetch {
  const uint8_t* stream[2] = {nullptr, nullptr};
  int64_t pairs = 0;

  // `bytes` of each stream, spread over `steps` calls of step().
  Prefetch(const uint8_t* first, const uint8_t* second, int64_t bytes, int64_t steps)
      : stream{first, second}, pairs((bytes / 128 + steps - 1) / steps) {}

  void step() {
    for (int64_t i = 0; i < pairs; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(stream[0]), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(stream[1]), _MM_HINT_T1);
      stream[0] += 128;
      stream[1] += 128;
    }
  }
};

// One block's operands: rows of A lda bytes apart, two panels of 16 columns of B, `steps` steps of `depth` bytes of k,
// rows of C ldc sums apart.
struct Product {
  const void* a;
  int64_t lda;
  const void* b[2];
  int64_t steps, depth;
  int64_t ldc = kBlockColumns;
};

// Sum is int32_t for int8 operands, float for bf16. Tile numbers must be constants, so this is a macro.
#define KDNATIVE_TILE_DOT(c, a, b)              \
  do {                                          \
    if constexpr (std::is_same_v<Sum, float>) { \
      _tile_dpbf16ps(c, a, b);                  \
    } else {                                    \
      _tile_dpbssd(c, a, b);                    \
    }                                           \
  } while (false)

// c [rows, 32] = A B, or c += A B. The tiles must have the shape of the block; two_tiles: more than 16 rows.
// between.step() is called once a step: what vectors can do while tiles multiply.
template <bool two_tiles, typename Sum, typename Between>
inline void multiply_block(const Product& p, bool accumulate, Sum* c, Between& between) {
  const int64_t row_bytes = p.ldc * 4;
  Sum* lower = c + 16 * p.ldc;
  __asm__ volatile("" : : : "memory");  // tile loads do not tell the compiler that they read memory
  if (accumulate) {
    _tile_loadd(0, c, row_bytes);
    _tile_loadd(1, c + 16, row_bytes);
    if constexpr (two_tiles) {
      _tile_loadd(2, lower, row_bytes);
      _tile_loadd(3, lower + 16, row_bytes);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (two_tiles) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  for (int64_t s = 0; s < p.steps; ++s) {
    const uint8_t* a = static_cast<const uint8_t*>(p.a) + s * p.depth;
    const int64_t b = s * p.depth * 16;
    _tile_loadd(6, static_cast<const uint8_t*>(p.b[0]) + b, 64);
    _tile_loadd(4, a, p.lda);
    KDNATIVE_TILE_DOT(0, 4, 6);
    _tile_loadd(7, static_cast<const uint8_t*>(p.b[1]) + b, 64);
    KDNATIVE_TILE_DOT(1, 4, 7);
    if constexpr (two_tiles) {
      _tile_loadd(5, a + 16 * p.lda, p.lda);
      KDNATIVE_TILE_DOT(2, 5, 6);
      KDNATIVE_TILE_DOT(3, 5, 7);
    }
    between.step();
  }
  _tile_stored(0, c, row_bytes);
  _tile_stored(1, c + 16, row_bytes);
  if constexpr (two_tiles) {
    _tile_stored(2, lower, row_bytes);
    _tile_stored(3, lower + 16, row_bytes);
  }
}

#undef KDNATIVE_TILE_DOT

template <typename Sum, typename Between>
inline void multiply(int64_t rows, const Product& p, bool accumulate, Sum* c, Between& between) {
  if (rows > 16) {
    multiply_block<true>(p, accumulate, c, between);
  } else {
    multiply_block<false>(p, accumulate, c, between);
  }
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace
}  // namespace kdnative::cpu
