// A product of bf16 matrices: what attention and the linear layers with float activations ask for.
#pragma once

#include <cstdint>

namespace kdnative::cpu {
namespace {

// c [rows, columns] = a [rows, depth] b, fp32 = bf16 x bf16. Columns and depth are multiples of 32. b is stored in
// blocks of 16 columns, b_block elements apart, each [depth / 2][16][2]: pairs of the depth side by side, which is both
// an operand of a dot product of pairs and, 16 of them, one AMX tile.
struct Bf16Product {
  const uint16_t* a;
  int64_t lda, rows;
  const uint16_t* b;
  int64_t b_block, columns, depth;
  float* c;
  int64_t ldc;
};

}  // namespace
}  // namespace kdnative::cpu
