// Reads the masks and bytes of one block of 16 columns. Never reads outside the packed weight, whatever the masks are:
// a check every 16 operands, which the spare bytes at the end of the values allow for.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu {
namespace {

constexpr int64_t kCheckEvery = 16;  // operands
static_assert(kCheckEvery * 64 + 64 <= kMaskSpare, "what is read before the next check is in the buffer");

struct MaskStream {
  const uint64_t* mask;  // of the next operand
  const uint8_t* at;     // its bytes
  const uint8_t* end;    // of the block

  MaskStream(const SparseLinear& w, int64_t block)
      : mask(w.mask + block * (w.layer.k_pad / 4)), at(w.values + w.start[block]), end(w.values + w.start[block + 1]) {}

  bool sound() const { return at <= end; }     // to be asked before every 16 operands
  bool finished() const { return at == end; }  // to be asked after all
  void next(int64_t count) {                   // of bytes of this operand
    at += count;
    ++mask;
  }
};

// The dense form of one column tile, [2][k_pad / 4][64], by expand(bytes, mask, 64 dense bytes).
template <typename Expand>
inline bool expand_tile(const SparseLinear& w, int64_t tile, int8_t* dense, const Expand& expand) {
  auto* out = reinterpret_cast<uint8_t*>(dense);
  for (int64_t half = 0; half < 2; ++half) {
    MaskStream stream(w, 2 * tile + half);
    for (int64_t i = 0; i < w.layer.k_pad / 4; i += kCheckEvery) {
      if (!stream.sound()) return false;
      for (int64_t j = 0; j < kCheckEvery; ++j, out += 64) {
        expand(stream.at, *stream.mask, out);
        stream.next(__builtin_popcountll(*stream.mask));
      }
    }
    if (!stream.finished()) return false;
  }
  return true;
}

}  // namespace
}  // namespace kdnative::cpu
