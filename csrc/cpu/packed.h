// Packed weights of one linear layer: a single byte buffer, the same on every machine (docs/packed_formats.md).
//
// Python builds the buffer (kdnative/formats/dense.py), C++ only reads it. All offsets are bytes from the start of the
// buffer and multiples of 64.
//
// int8 weights, [n_pad/16][k_pad/4][16][4] int8:   element (n, k) at ((n/16 * k_pad/4 + k/4) * 16 + n%16) * 4 + k%4
//   16 consecutive k-quads of one 16-column block are one AMX B tile (16 rows x 64 bytes) and one quad is one
//   64-byte VNNI operand.
// int4 weights, [n_pad/32][k_pad/4][16][4] bytes:  low nibble = columns 0..15 of the 32-column block, high nibble =
//   columns 16..31; a nibble holds u = q + 8 in [0, 15], the weight is (u - zero) * scale.
// Two-level int4 weights: the same codes; the weight is (u - zero) * group_scale * scale with an integer group_scale,
// and
//   (u - zero) * group_scale is an int8.
// int2 weights, [n_pad/32][k_pad/8][16][4] bytes:  four codes u = q + 2 in [0, 3], from the low bits up: columns 0..15
// and
//   16..31 of the first quad of k, then of the second.
#pragma once

#include <cstdint>

namespace kdnative::cpu {

constexpr int64_t kTileN = 32;                // columns are padded to this
constexpr int64_t kTileK = 64;                // rows of the weight (the reduction) are padded to this
constexpr int64_t kAlignment = 8;             // of a buffer in memory; at 64 no load crosses a cache line
constexpr int32_t kMostGroupScale = 17;       // 15 * 17 = 255: a code times its group scale stays within a byte
constexpr int32_t kPackedMagic = 0x4b444e31;  // "KDN1"

// Whether a size is positive and `padded` is that size up to the next multiple of `unit`.
constexpr bool is_padded(int64_t size, int64_t padded, int64_t unit) {
  return size > 0 && padded % unit == 0 && padded - size >= 0 && padded - size < unit;
}

struct PackedHeader {  // the first 128 bytes
  int32_t magic, version;
  int32_t bits;  // 8, 4 or 2
  int32_t n, k;  // true sizes
  int32_t n_pad, k_pad;
  int32_t group;       // 0: one scale per column; otherwise 32, 64 or 128 (divides k, so it divides every used column)
  int64_t data;        // weights, layout above
  int64_t scale;       // bits 8 and two levels: float [n_pad]; otherwise float [ceil(k_pad / group)][n_pad]
  int64_t column_sum;  // bits 8: int32 [n_pad], sum over k of the weights; otherwise 0
  int64_t zero;        // uint8 [ceil(k_pad / group)][n_pad] in u space (8 or 2 when symmetric), 0 for bits 8
  int64_t bias;        // float [n_pad], or 0 when there is none
  int64_t bytes;       // size of the whole buffer
  int32_t symmetric;   // 1 when every zero is that of q = 0
  int32_t unused;
  int64_t group_scale;  // two levels: uint8 [ceil(k_pad / group)][n_pad], at most 17; otherwise 0
  int64_t input_scale;  // version 2: float [k_pad], what inputs are multiplied by; version 1: 0
  int32_t reserved[6];
};
static_assert(sizeof(PackedHeader) == 128, "the header is 128 bytes on every machine");

struct PackedLinear {  // a header resolved to pointers
  int32_t bits, group;
  int64_t n, k, n_pad, k_pad, groups;
  const uint8_t* data;
  const float* scale;
  const int32_t* column_sum;
  const uint8_t* zero;
  const float* bias;  // nullptr when there is none
  bool symmetric;
  const uint8_t* group_scale;  // nullptr unless the weights have two levels
  // [k_pad], for whoever prepares the rows that a product takes: GEMMs don't read it. nullptr when there is none.
  const float* input_scale;
};

constexpr int64_t kMostInputs = 0x7fffffff / (127 * 127);  // beyond, sums of int8 products could leave int32

// nullptr when products with int8 activations stay within int32, as they do within one group; otherwise what to do.
inline const char* check_sums(int64_t k, bool grouped) {
  static_assert(kMostInputs == 133144, "the number in the message");
  return grouped || k <= kMostInputs
             ? nullptr
             : "the weight has more than 133144 inputs, whose int8 products could overflow int32; "
               "use a scheme with groups (w4a8-g64) or float activations (w8a16)";
}

// nullptr when `bytes` at `p` hold a well-formed packed linear of the expected bits (0: any); otherwise what is wrong.
const char* parse_packed(const void* p, int64_t bytes, int32_t bits, PackedLinear* out);

}  // namespace kdnative::cpu
