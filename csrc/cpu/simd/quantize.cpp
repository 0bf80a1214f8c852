// Dynamic per-token quantization over Vec.
#include "vec.h"
// These are written against Vec and come after it.
#include <cstring>

#include "../instruction_sets.h"
#include "io.h"

namespace kdnative::cpu::KDNATIVE_ISA {
namespace {

constexpr int64_t kSumColumns = 32;  // columns of one group_sum

// Largest magnitude of a row; NaN when the row holds NaN or infinity. Magnitudes are compared as integers: they are
// ordered like the numbers, with infinity and then NaN on top.
template <typename Inputs>
inline float row_amax(const Inputs& in, int64_t first, int64_t k) {
  constexpr int kChains = 4;  // independent, to hide the latency of max
  Vec largest[kChains];
  for (Vec& v : largest) v = Vec::zero();
  int64_t i = 0;
  for (; i + kChains * Vec::width <= k; i += kChains * Vec::width) {
    for (int j = 0; j < kChains; ++j) largest[j] = max_bits(largest[j], abs(in.load(first, i + j * Vec::width)));
  }
  for (; i < k; i += Vec::width) largest[0] = max_bits(largest[0], abs(in.load(first, i, k - i)));
  const Vec all = max_bits(max_bits(largest[0], largest[1]), max_bits(largest[2], largest[3]));
  const float zero = reduce_add(all * Vec::zero());  // 0 as long as every value is finite
  return zero == 0.0f ? reduce_max(all) : zero;
}

// q = rint(v * inverse) for one row of k_pad columns; group_sum may be nullptr.
template <typename Inputs>
inline void quantize_row(const Inputs& in, int64_t first, int64_t k, int64_t k_pad, float inverse, int8_t* q,
                         int32_t* group_sum) {
  constexpr int64_t kBlock = 4 * Vec::width > kSumColumns ? 4 * Vec::width : kSumColumns;
  static_assert(kTileK % kBlock == 0, "a row is a number of blocks");
  const Vec factor = Vec::set1(inverse);
  for (int64_t i = 0; i < k_pad; i += kBlock) {
    Vec sum[kBlock / kSumColumns];
    for (Vec& s : sum) s = Vec::zero();
    for (int64_t at = i; at < i + kBlock; at += 4 * Vec::width) {
      Vec v[4];
      for (int64_t j = 0; j < 4; ++j) {
        const int64_t c = at + j * Vec::width;
        v[j] = (c + Vec::width <= k ? in.load(first, c) : in.load(first, c, k - c)) * factor;
        if (group_sum != nullptr) {  // at most 32 * 127: exact in fp32
          Vec& s = sum[(c - i) / kSumColumns];
          s = s + round(v[j]);
        }
      }
      store_s8(v, q + at);
    }
    if (group_sum == nullptr) continue;
    for (const Vec& s : sum) *group_sum++ = static_cast<int32_t>(reduce_add(s));
  }
}

template <typename Inputs>
inline void quantize_inputs(const Inputs& in, int64_t ld_x, int64_t rows, int64_t k, int64_t k_pad, int8_t* q,
                            int64_t ld_q, float* scale, int32_t* group_sum) {
  for (int64_t r = 0; r < rows; ++r) {
    const float amax = row_amax(in, r * ld_x, k);
    scale[r] = amax / 127.0f;
    int8_t* q_row = q + r * ld_q;
    int32_t* sums = group_sum == nullptr ? nullptr : group_sum + r * (k_pad / kSumColumns);
    if (amax >= 1e-30f) {
      quantize_row(in, r * ld_x, k, k_pad, 127.0f / amax, q_row, sums);
    } else if (k_pad > 0) {  // also NaN; without columns there may be no memory either
      std::memset(q_row, 0, static_cast<size_t>(k_pad));
      if (sums != nullptr) std::memset(sums, 0, static_cast<size_t>(k_pad / kSumColumns) * sizeof(*sums));
    }
  }
}

}  // namespace

void quantize_rows(const void* x, DType type, int64_t ld_x, const float* input_scale, int64_t rows, int64_t k,
                   int64_t k_pad, int8_t* q, int64_t ld_q, float* scale, int32_t* group_sum) {
  with_inputs(x, type, input_scale,
              [&](const auto& in) { quantize_inputs(in, ld_x, rows, k, k_pad, q, ld_q, scale, group_sum); });
}

}  // namespace kdnative::cpu::KDNATIVE_ISA
