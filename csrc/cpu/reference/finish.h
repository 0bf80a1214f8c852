// What the reference products share: the loop over outputs, and the last steps of one.
#pragma once

#include <algorithm>

#include "../simd/vec_scalar.h"
// math.h is written against Vec and comes after it.
#include "../simd/math.h"

namespace kdnative::cpu::reference {
namespace {

void finish(const PackedLinear& w, const Epilogue& e, int64_t row, int64_t column, float y) {
  if (w.bias != nullptr) y = y + w.bias[column];
  Vec v = activate(Vec::set1(y), e.activation);
  if (e.residual != nullptr) v = v + Vec::set1(e.residual[row * e.ld_residual + column]);
  const int64_t at = row * e.ld_out + column;
  if (e.out_type == DType::f32) {
    v.store(static_cast<float*>(e.out) + at);
  } else if (e.out_type == DType::bf16) {
    v.store_bf16(static_cast<uint16_t*>(e.out) + at);
  } else {
    v.store_f16(static_cast<uint16_t*>(e.out) + at);
  }
}

template <typename Element>
void for_each(const PackedLinear& w, const GemmRange& r, const Element& element) {
  const int64_t last = std::min(w.n, r.tile_end * kTileN);
  for (int64_t row = r.m_begin; row < r.m_end; ++row)
    for (int64_t column = r.tile_begin * kTileN; column < last; ++column) element(row, column);
}

}  // namespace
}  // namespace kdnative::cpu::reference
