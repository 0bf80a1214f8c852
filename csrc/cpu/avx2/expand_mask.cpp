#include "../instruction_sets.h"
#include "../simd/expand.h"
#include "../simd/mask_stream.h"

namespace kdnative::cpu::avx2 {

bool expand_mask(const SparseLinear& w, int64_t tile, int8_t* dense) {
  return expand_tile(w, tile, dense, [](const uint8_t* p, uint64_t mask, uint8_t* out) { expand_bytes(p, mask, out); });
}

}  // namespace kdnative::cpu::avx2
