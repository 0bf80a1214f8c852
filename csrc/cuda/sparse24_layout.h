// The packed weight of the 2:4 kernels: kdnative/formats/gpu/sparse24.py makes it. It has no header, since the host
// can't read the memory of a device: everything follows from the shape.
//
// First tiles of 16 outputs x 64 inputs, all those of 16 outputs in a row: what one mma.sp takes, in the order of the
// lanes of a warp. 16 bytes of each lane are its four registers of codes, 4 bytes its register of metadata. Rows g and
// g + 8 of the product are outputs 2 g and 2 g + 1 (transposed.cuh). Then the scales, float [n], and the bias, float
// [n], if there is one. Each of the three starts on 256 bytes.
#pragma once

#ifndef __CUDACC__
#include <cstdint>
#endif

namespace gpu {

struct Sparse24Layout {
  static constexpr int kTileN = 16, kTileK = 64;
  static constexpr int kCodeBytes = 512, kTileBytes = 640;  // codes, then 128 bytes of metadata
  static constexpr int kPadK = 256;                         // inputs are padded to a multiple with zeros
};

#ifndef __CUDACC__
// Where the parts of a weight [n, k] lie, and the size of the whole. Without a bias, `bias` is where it would be.
struct Sparse24Offsets {
  int64_t scale, bias, bytes;

  constexpr Sparse24Offsets(int64_t n, int64_t k, bool has_bias)
      : scale((n + Sparse24Layout::kTileN - 1) / Sparse24Layout::kTileN *
              ((k + Sparse24Layout::kPadK - 1) / Sparse24Layout::kPadK) *
              (Sparse24Layout::kPadK / Sparse24Layout::kTileK * Sparse24Layout::kTileBytes)),
        bias(scale + aligned(4 * n)),
        bytes(has_bias ? bias + aligned(4 * n) : bias) {}

 private:
  static constexpr int64_t aligned(int64_t size) { return (size + 255) / 256 * 256; }
};
#endif

}  // namespace gpu
