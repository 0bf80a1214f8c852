#include "../instruction_sets.h"
#include "finish.h"

namespace kdnative::cpu::reference {

void arrange_rows(const QuantizedRows&, int64_t, int64_t, uint8_t*) {}  // gemm_blocks reads the rows as they are

bool gemm_blocks(const SparseLinear& w, const QuantizedRows& a, const uint8_t*, const Epilogue& e, const GemmRange& r) {
  bool sound = true;
  for_each(w.layer, r, [&](int64_t row, int64_t column) {
    const int8_t* q = a.q + row * a.ld;
    int32_t dot = 0;
    for (int64_t i = 4 * w.start[column / 4]; i < 4 * w.start[column / 4 + 1]; ++i) {
      const int64_t k = w.index[i];
      if (k >= w.layer.k_pad) {
        sound = false;
        return;
      }
      dot += q[k] * static_cast<int8_t>(w.values[(i / 4 * 4 + column % 4) * 4 + i % 4]);
    }
    finish(w.layer, e, row, column, static_cast<float>(dot) * (a.scale[row] * w.layer.scale[column]));
  });
  return sound;
}

bool expand_mask(const SparseLinear& w, int64_t tile, int8_t* dense) {
  const int64_t operands = w.layer.k_pad / 4;
  for (int64_t block = 2 * tile; block < 2 * tile + 2; ++block) {
    int64_t at = w.start[block];
    for (int64_t i = 0; i < operands * 64; ++i, ++dense) {
      *dense = 0;
      if ((w.mask[block * operands + i / 64] >> i % 64 & 1) == 0) continue;
      if (at == w.start[block + 1]) return false;
      *dense = static_cast<int8_t>(w.values[at++] - 128);
    }
    if (at != w.start[block + 1]) return false;
  }
  return true;
}

}  // namespace kdnative::cpu::reference
