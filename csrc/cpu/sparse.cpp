#include "sparse.h"

#include <cstring>

namespace kdnative::cpu {
namespace {

constexpr const char* kDamaged = "the packed weight is damaged";

// Starts of consecutive ranges that cover [0, count).
bool increasing(const int64_t* start, int64_t ranges, int64_t count) {
  if (start[0] != 0 || start[ranges] != count) return false;
  bool right = true;
  for (int64_t i = 0; i < ranges; ++i) right &= start[i] <= start[i + 1];
  return right;
}

}  // namespace

const char* parse_sparse(const void* p, int64_t bytes, SparseLinear* out) {
  SparseHeader h;
  if (bytes < static_cast<int64_t>(sizeof h)) return "the packed weight is shorter than its header; pack it again";
  std::memcpy(&h, p, sizeof h);
  if (h.magic != kSparseMagic)
    return "the tensor is not a packed sparse weight (wrong magic number); build it with "
           "kdnative.formats.sparse.pack";
  if (h.version != 1) return "the packed weight has an unknown version; pack it again with this release";
  const auto format = static_cast<SparseFormat>(h.format);
  const bool blocks = format == SparseFormat::blocks;
  if (!blocks && format != SparseFormat::mask) return "the packed weight has an unknown sparse format";
  if (h.bits != 8) return "the packed weight has an unknown bit width";
  if (!is_padded(h.n, h.n_pad, kTileN) || !is_padded(h.k, h.k_pad, kTileK))
    return "the packed weight has impossible sizes";
  if (const char* problem = check_sums(h.k, false)) return problem;
  if (h.bytes != bytes) return "the packed weight is truncated or has trailing bytes";
  const int64_t n_pad = h.n_pad, k_pad = h.k_pad, ranges = n_pad / (blocks ? 4 : 16);
  const auto inside = [bytes](int64_t offset, int64_t size) {
    return offset >= static_cast<int64_t>(sizeof(SparseHeader)) && offset % 64 == 0 && offset <= bytes &&
           size <= bytes - offset;
  };
  if (h.count < 0 || h.count > bytes) return kDamaged;
  if (!inside(h.values, blocks ? h.count * 16 : h.count + kMaskSpare)) return kDamaged;
  if (!inside(h.index, blocks ? h.count * 8 : n_pad * k_pad / 8)) return kDamaged;
  if (!inside(h.start, (ranges + 1) * 8) || !inside(h.scale, n_pad * 4) || !inside(h.column_sum, n_pad * 4))
    return kDamaged;
  if (h.bias != 0 && !inside(h.bias, n_pad * 4)) return kDamaged;
  const auto* base = static_cast<const uint8_t*>(p);
  const auto* start = reinterpret_cast<const int64_t*>(base + h.start);
  if (!increasing(start, ranges, h.count)) return kDamaged;
  PackedLinear layer = {};
  layer.bits = 8;
  layer.n = h.n;
  layer.k = h.k;
  layer.n_pad = n_pad;
  layer.k_pad = k_pad;
  layer.groups = 1;
  layer.scale = reinterpret_cast<const float*>(base + h.scale);
  layer.column_sum = reinterpret_cast<const int32_t*>(base + h.column_sum);
  layer.bias = h.bias != 0 ? reinterpret_cast<const float*>(base + h.bias) : nullptr;
  layer.symmetric = true;
  *out = {layer,
          format,
          base + h.values,
          blocks ? reinterpret_cast<const uint16_t*>(base + h.index) : nullptr,
          blocks ? nullptr : reinterpret_cast<const uint64_t*>(base + h.index),
          start};
  return nullptr;
}

}  // namespace kdnative::cpu
