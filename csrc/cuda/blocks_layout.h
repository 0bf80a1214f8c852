// The packed weight of the block-sparse kernels: kdnative/formats/gpu/blocks.py makes it. It has no header, since the
// host can't read the memory of a device: everything follows from the shape, the side of a block and the size of the
// buffer.
//
// A weight is cut into square blocks of 16, 32 or 64 outputs and inputs, and blocks of zeros are left out. Those of one
// row of blocks are gathered into units of 64 inputs; the last unit of a row is filled up with blocks of zeros.
//   codes:   int8 [units][2][side / 16][32][16]: for each 32 inputs and each 16 outputs the fragments of one mma, 16
//            bytes a lane. Rows g and g + 8 of the product are outputs 2 g and 2 g + 1 (transposed.cuh)
//   columns: int32 [units][64 / side]: which column of blocks each one is
//   start:   int32 [rows of blocks + 1]: row b has the units start[b] .. start[b + 1]
//   scale:   float [n], and bias: float [n] if there is one
// Each of them starts on 256 bytes.
#pragma once

#ifndef __CUDACC__
#include <cstdint>
#endif

namespace gpu {

struct BlocksLayout {
  static constexpr int kUnitK = 64;  // inputs of a unit
};

#ifndef __CUDACC__
// Where the parts of a weight [n, k] lie, if it is packed in `bytes` bytes. units < 0: no such weight has so many.
struct BlocksOffsets {
  int64_t units, columns, start, scale, bias;  // without a bias, `bias` is where it would be

  constexpr BlocksOffsets(int64_t n, int side, bool has_bias, int64_t bytes) : units(-1) {
    const int64_t rows = (n + side - 1) / side;
    const int64_t rest = aligned(4 * (rows + 1)) + aligned(4 * n) * (has_bias ? 2 : 1);
    // Codes and columns of one unit, and the padding of the columns, which is shorter than that.
    const int64_t guess = (bytes - rest) / (side * 64 + 256 / side);
    columns = aligned(guess * side * 64);
    start = columns + aligned(guess * 256 / side);
    scale = start + aligned(4 * (rows + 1));
    bias = scale + aligned(4 * n);
    if (bytes >= rest && bias + (has_bias ? aligned(4 * n) : 0) == bytes) units = guess;
  }

 private:
  static constexpr int64_t aligned(int64_t size) { return (size + 255) / 256 * 256; }
};
#endif

}  // namespace gpu
