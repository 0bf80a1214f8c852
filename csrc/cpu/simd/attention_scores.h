// What happens to attention scores before the softmax, over Vec: a bias by distance, and a window. Include it after one
// vec_*.h.
#pragma once

#include "../kernels.h"

namespace kdnative::cpu {
namespace {

struct Range {
  int64_t begin, end;
};

inline int64_t round_up_to(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// The keys that query rows [first, first + count) may attend to, in whole panels and not beyond t_pad. Rows of dropped
// tokens are gone, so a key within the window is at most that many rows away.
inline Range keys_of(const AttentionArgs& a, int64_t first, int64_t count, int64_t t_pad, int64_t panel) {
  const int64_t low = first - a.before, high = round_up_to(first + count + a.after, panel);
  return {low > 0 ? low / panel * panel : 0, high < t_pad ? high : t_pad};
}

// Adds the bias to the scores of query row i and keys j, and removes the keys outside the window.
inline void adjust_scores(const AttentionArgs& a, int32_t head, int64_t i, Range j, float* scores) {
  const float* bias = a.bias == nullptr ? nullptr : a.bias + head * a.bias_stride;
  const float never = -__builtin_inff();
  if (a.columns == nullptr) {
    if (bias != nullptr) {
      const float* row = bias - i;
      int64_t k = j.begin;
      for (; k + Vec::width <= j.end; k += Vec::width) (Vec::load(scores + k) + Vec::load(row + k)).store(scores + k);
      for (; k < j.end; ++k) scores[k] += row[k];
    }
    if (a.windowed()) {
      const int64_t before = i - a.before, after = i + a.after + 1;
      for (int64_t k = j.begin; k < before && k < j.end; ++k) scores[k] = never;
      for (int64_t k = after > j.begin ? after : j.begin; k < j.end; ++k) scores[k] = never;
    }
    return;
  }
  for (int64_t k = j.begin; k < j.end; ++k) {
    const int64_t distance = a.columns[k] - a.columns[i];
    if (bias != nullptr) scores[k] += bias[distance];
    if (distance > a.after || -distance > a.before) scores[k] = never;
  }
}

}  // namespace
}  // namespace kdnative::cpu
