// Fragments and products of matrices, by whole warps. Emulated half of csrc/cuda/gpu/matrix.h, which describes layouts.
#pragma once

#include <cstring>

#include "convert.h"
#include "shadow.h"

namespace gpu {

namespace emulator {

// What the lanes of a warp give to a product: a of 4 registers, b of up to 4, and the sums.
template <typename Sum>
struct Factors {
  Sum* d;
  const uint32_t* a;
  uint32_t b[4];
  uint32_t metadata;
};

// Adds to every lane's sums product(row, column) as d of m16n8 lies.
template <typename Sum, typename Product>
void add_products(void** lanes, Product product) {
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 4; ++i)
      product(static_cast<Factors<Sum>*>(lanes[l])->d[i], l / 4 + 8 * (i >> 1), l % 4 * 2 + (i & 1));
}

// a, 16 rows, and b, 8 columns, as registers spread them: lane 4 g + t has word t of every four of row g.
template <typename T, int kWordsA, int kRegistersB>
struct Tiles {
  static constexpr int kInWord = 4 / sizeof(T);
  T a[16][kWordsA * kInWord], b[8][4 * kRegistersB * kInWord];

  template <typename Sum>
  explicit Tiles(void** lanes, const Sum*) {
    for (int l = 0; l < 32; ++l) {
      const Factors<Sum>& f = *static_cast<Factors<Sum>*>(lanes[l]);
      const int g = l / 4, t = l % 4;
      for (int i = 0; i < 4; ++i) std::memcpy(&a[g + 8 * (i & 1)][(t + 4 * (i >> 1)) * kInWord], &f.a[i], 4);
      for (int i = 0; i < kRegistersB; ++i) std::memcpy(&b[g][(t + 4 * i) * kInWord], &f.b[i], 4);
    }
  }
};

inline int32_t wrapping_add(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

// m16n8k16 with factors of 16 bits: the products are exact, the sums rounded to fp32 one after the other in the order
// of k. Hardware adds in an order of its own, with fewer bits, so kernels are held to bounds.
template <typename Type>
void multiply_16_bits(const char* name, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                      const Where& where) {
  Factors<float> mine{d, a, {b0, b1}, 0};
  collective(name, &mine, where, [](void** lanes) {
    const Tiles<uint16_t, 8, 2> bits(lanes, static_cast<float*>(nullptr));
    float x[16][16], y[8][16];
    for (int k = 0; k < 16; ++k) {
      for (int r = 0; r < 16; ++r) x[r][k] = to_float(Type{bits.a[r][k]});
      for (int c = 0; c < 8; ++c) y[c][k] = to_float(Type{bits.b[c][k]});
    }
    add_products<float>(lanes, [&](float& sum, int row, int column) {
      for (int k = 0; k < 16; ++k) sum += x[row][k] * y[column][k];
    });
  });
}

}  // namespace emulator

inline void load_matrix_x4(uint32_t (&r)[4], uint32_t row_at, emulator::Where where = emulator::Where::current()) {
  struct Operands {
    uint32_t* r;
    uint32_t at;
  } mine{r, row_at};
  emulator::touch_shared(row_at, 16, emulator::Touch::kRead, "ldmatrix.x4", where);
  emulator::record("ldmatrix.x4", false, row_at, 16, where);
  emulator::collective("ldmatrix.x4", &mine, where, [](void** lanes) {
    for (int i = 0; i < 4; ++i)
      for (int l = 0; l < 32; ++l) {
        const uint32_t row = static_cast<Operands*>(lanes[8 * i + l / 4])->at;
        std::memcpy(&static_cast<Operands*>(lanes[l])->r[i], &emulator::machine->shared[row + l % 4 * 4], 4);
      }
  });
}

inline void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                   emulator::Where where = emulator::Where::current()) {
  emulator::Factors<int32_t> mine{d, a, {b0, b1}, 0};
  emulator::collective("mma.m16n8k32.s8", &mine, where, [](void** lanes) {
    const emulator::Tiles<int8_t, 8, 2> f(lanes, static_cast<int32_t*>(nullptr));
    emulator::add_products<int32_t>(lanes, [&f](int32_t& sum, int row, int column) {
      int32_t product = 0;
      for (int k = 0; k < 32; ++k) product += f.a[row][k] * f.b[column][k];
      sum = emulator::wrapping_add(sum, product);
    });
  });
}

inline void mma_s8_half(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b,
                        emulator::Where where = emulator::Where::current()) {
  const uint32_t a[4] = {a0, a1, 0, 0};
  emulator::Factors<int32_t> mine{d, a, {b}, 0};
  emulator::collective("mma.m16n8k16.s8", &mine, where, [](void** lanes) {
    const emulator::Tiles<int8_t, 8, 1> f(lanes, static_cast<int32_t*>(nullptr));
    emulator::add_products<int32_t>(lanes, [&f](int32_t& sum, int row, int column) {
      int32_t product = 0;
      for (int k = 0; k < 16; ++k) product += f.a[row][k] * f.b[column][k];
      sum = emulator::wrapping_add(sum, product);
    });
  });
}

inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                    emulator::Where where = emulator::Where::current()) {
  emulator::multiply_16_bits<Half>("mma.m16n8k16.f16", d, a, b0, b1, where);
}
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                     emulator::Where where = emulator::Where::current()) {
  emulator::multiply_16_bits<Bf16>("mma.m16n8k16.bf16", d, a, b0, b1, where);
}

inline void mma_sparse_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata,
                          emulator::Where where = emulator::Where::current()) {
  emulator::Factors<int32_t> mine{d, a, {b[0], b[1], b[2], b[3]}, metadata};
  emulator::collective("mma.sp.m16n8k64.s8", &mine, where, [&where](void** lanes) {
    const emulator::Tiles<int8_t, 8, 4> f(lanes, static_cast<int32_t*>(nullptr));
    int8_t dense[16][64] = {};
    for (int row = 0; row < 16; ++row)
      for (int stored = 0; stored < 32; ++stored) {
        // Of row g: lane 4g has the metadata of stored columns 0 ... 15, lane 4g + 2 that of 16 ... 31; the lanes after
        // them have the same of row g + 8.
        const int lane = row % 8 * 4 + row / 8 + stored / 16 * 2;
        const uint32_t word = static_cast<emulator::Factors<int32_t>*>(lanes[lane])->metadata;
        const int column = word >> 2 * (stored % 16) & 3;
        if (stored % 2 == 1 && column <= static_cast<int>(word >> 2 * (stored % 16 - 1) & 3))
          emulator::fail("mma.sp: metadata of row " + std::to_string(row) + " is not in increasing order", &where);
        dense[row][stored / 2 * 4 + column] = f.a[row][stored];
      }
    emulator::add_products<int32_t>(lanes, [&](int32_t& sum, int row, int column) {
      int32_t product = 0;
      for (int k = 0; k < 64; ++k) product += dense[row][k] * f.b[column][k];
      sum = emulator::wrapping_add(sum, product);
    });
  });
}

}  // namespace gpu
