// Which units of a block-sparse weight (blocks_layout.h) belong to a row of blocks.
#pragma once
#include "gpu.h"

namespace gpu {

// Units begin .. end of `units`, whatever a damaged weight holds. Rows of blocks from `rows` on have none.
struct UnitRange {
  int begin = 0, end = 0;

  GPU_FN UnitRange(const int32_t* start, int row, int rows, int units) {
    if (row >= rows) return;
    begin = within(load_global(start + row), units);
    end = within(load_global(start + row + 1), units);
  }
  static GPU_FN int within(int v, int most) { return v < 0 ? 0 : v < most ? v : most; }
};

}  // namespace gpu
