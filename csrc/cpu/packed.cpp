#include "packed.h"

#include <cstring>

namespace kdnative::cpu {

const char* parse_packed(const void* p, int64_t bytes, int32_t bits, PackedLinear* out) {
  PackedHeader h;
  if (bytes < static_cast<int64_t>(sizeof h)) return "the packed weight is shorter than its header; pack it again";
  std::memcpy(&h, p, sizeof h);
  if (h.magic != kPackedMagic)
    return "the tensor is not a packed weight (wrong magic number); build it with kdnative.formats.dense.pack";
  if (h.version != 1 && h.version != 2)
    return "the packed weight has an unknown version; pack it again with this release";
  if (h.bits != 8 && h.bits != 4 && h.bits != 2) return "the packed weight has an unknown bit width";
  if (bits != 0 && h.bits != bits) return "the packed weight has another bit width than this operator expects";
  if (!is_padded(h.n, h.n_pad, kTileN) || !is_padded(h.k, h.k_pad, kTileK))
    return "the packed weight has impossible sizes";
  if (h.bytes != bytes) return "the packed weight is truncated or has trailing bytes";
  const bool grouped = h.group == 32 || h.group == 64 || h.group == 128;
  if (h.bits == 8 ? h.group != 0 : !grouped || h.k % h.group != 0)
    return "the packed weight has an impossible group size";
  const int64_t n_pad = h.n_pad, k_pad = h.k_pad;
  const int64_t groups = h.bits == 8 ? 1 : (k_pad + h.group - 1) / h.group;
  const auto inside = [bytes](int64_t offset, int64_t size) {
    return offset >= static_cast<int64_t>(sizeof(PackedHeader)) && offset % 64 == 0 && offset <= bytes &&
           size <= bytes - offset;
  };
  const bool two_levels = h.group_scale != 0;
  if (two_levels && h.bits != 4) return "the packed weight has integer group scales, which only 4-bit weights can have";
  if (!inside(h.data, n_pad * (k_pad * h.bits / 8)) || !inside(h.scale, (two_levels ? 1 : groups) * n_pad * 4))
    return "the packed weight is damaged";
  if (two_levels && !inside(h.group_scale, groups * n_pad)) return "the packed weight is damaged";
  if (h.bits == 8 ? !inside(h.column_sum, n_pad * 4) : !inside(h.zero, groups * n_pad))
    return "the packed weight is damaged";
  if (h.bias != 0 && !inside(h.bias, n_pad * 4)) return "the packed weight is damaged";
  const bool input_scales = h.version == 2;
  if (input_scales ? !inside(h.input_scale, k_pad * 4) : h.input_scale != 0) return "the packed weight is damaged";
  const auto* base = static_cast<const uint8_t*>(p);
  *out = PackedLinear{h.bits,
                      h.group,
                      h.n,
                      h.k,
                      n_pad,
                      k_pad,
                      groups,
                      base + h.data,
                      reinterpret_cast<const float*>(base + h.scale),
                      h.bits == 8 ? reinterpret_cast<const int32_t*>(base + h.column_sum) : nullptr,
                      h.bits != 8 ? base + h.zero : nullptr,
                      h.bias != 0 ? reinterpret_cast<const float*>(base + h.bias) : nullptr,
                      h.symmetric != 0,
                      two_levels ? base + h.group_scale : nullptr,
                      input_scales ? reinterpret_cast<const float*>(base + h.input_scale) : nullptr};
  return nullptr;
}

}  // namespace kdnative::cpu
