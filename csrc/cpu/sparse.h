// Packed weights of one linear layer with many zeros (docs/packed_formats.md, "Packed sparse linear").
//
// Python builds the buffer (kdnative/formats/sparse.py), C++ only reads it. The results are those of the dense
// layer with the same weights, bit for bit.
//
// blocks: four consecutive outputs x one input. A row of blocks (outputs 4 b .. 4 b + 3) lists the inputs where any of
//   its four weights is not zero, four at a time: `index` holds these inputs, `values` int8 [quads][4 outputs][4
//   inputs]. The last quad of a row repeats an input with weights of zero. Row b has quads start[b] .. start[b + 1].
// mask: the dense layout of packed.h, of which a 64-byte operand keeps only the bytes that are not zero, as w + 128,
//   and a 64-bit mask of where they were. The 16 columns of block b have the bytes start[b] .. start[b + 1] of
//   `values`.
//
// parse_sparse() checks everything but the indices and masks themselves. Those are too many for a look at every call,
// so kernels check what they read while they read it, and say false when it can't be right.
#pragma once

#include "packed.h"

namespace kdnative::cpu {

constexpr int32_t kSparseMagic = 0x4b444e53;  // "KDNS"
constexpr int64_t kMaskSpare = 2048;          // bytes that follow the values of a mask: kernels may load them

enum class SparseFormat : int32_t { blocks = 1, mask = 2 };

struct SparseHeader {  // the first 128 bytes
  int32_t magic, version;
  int32_t bits;    // 8
  int32_t format;  // SparseFormat
  int32_t n, k, n_pad, k_pad;
  int64_t count;       // blocks: quads; mask: bytes of values, without the spare ones
  int64_t values;      // offset
  int64_t index;       // blocks: uint16 [4 * quads]; mask: uint64 [n_pad / 16][k_pad / 4]
  int64_t start;       // blocks: int64 [n_pad / 4 + 1]; mask: [n_pad / 16 + 1]
  int64_t scale;       // float [n_pad]
  int64_t column_sum;  // int32 [n_pad]
  int64_t bias;        // float [n_pad], or 0 when there is none
  int64_t bytes;       // size of the whole buffer
  int32_t reserved[8];
};
static_assert(sizeof(SparseHeader) == 128, "the header is 128 bytes on every machine");

struct SparseLinear {  // a header resolved to pointers
  PackedLinear layer;  // bits, sizes, scales, sums and bias; its data is nullptr
  SparseFormat format;
  const uint8_t* values;
  const uint16_t* index;  // blocks
  const uint64_t* mask;   // mask
  const int64_t* start;
};

// nullptr when `bytes` at `p` hold a well-formed packed sparse linear; otherwise what is wrong.
const char* parse_sparse(const void* p, int64_t bytes, SparseLinear* out);

}  // namespace kdnative::cpu
