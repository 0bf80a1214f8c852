// layer_norm, attention, add_scaled_int8, rotate and gate over Vec.
#include "vec.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "attention_scores.h"
#include "math.h"

namespace kdnative::cpu::KDNATIVE_ISA {
namespace {

// Sum of term(i) over i in steps of Vec::width, i + width <= n. Four sums hide the latency of an addition.
template <typename Term>
inline float sum_whole(int64_t n, const Term& term) {
  Vec sum[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
  int64_t i = 0;
  for (; i + 4 * Vec::width <= n; i += 4 * Vec::width)
    for (int64_t j = 0; j < 4; ++j) sum[j] = sum[j] + term(i + j * Vec::width);
  for (; i + Vec::width <= n; i += Vec::width) sum[0] = sum[0] + term(i);
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// Query rows of one pass: as many sums as the registers hold with two vectors a row. AVX2 has 16, AVX-512 and NEON 32.
constexpr int64_t kQueryRows = Vec::width == 16 || Vec::width == 4 ? 8 : 6;
// A right-hand operand is stored in panels of this many columns, [depth][kPanel] one after the other, so that it is
// read in the order of memory; the last panel is one vector wide where that is enough. Columns beyond the true ones are
// zero.
constexpr int64_t kPanel = 2 * Vec::width;

// c[r][v] = sum over k of a[r][k] * panel[k][v], v counting vectors; put(r, v, c) stores.
template <int R, int C, typename Put>
inline void multiply_panel(const float* a, int64_t ld_a, const float* panel, int64_t depth, const Put& put) {
  Vec c[R][C];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < C; ++v) c[r][v] = Vec::zero();
  for (int64_t k = 0; k < depth; ++k, panel += C * Vec::width) {
    Vec row[C];
    for (int v = 0; v < C; ++v) row[v] = Vec::load(panel + v * Vec::width);
    for (int r = 0; r < R; ++r) {
      const Vec left = Vec::set1(a[r * ld_a + k]);
      for (int v = 0; v < C; ++v) c[r][v] = fma(left, row[v], c[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < C; ++v) put(r, v, c[r][v]);
}

// R rows of a right-hand operand that is `depth` deep: the columns of a range, whole panels and perhaps the last one,
// and of each the rows `k`, from a[r][k.begin] on; put(r, column, c).
template <int R, typename Put>
inline void multiply_rows(const float* a, int64_t ld_a, const float* panels, Range columns, int64_t depth, Range k,
                          const Put& put) {
  int64_t column = columns.begin;
  const auto at = [&](int r, int v, Vec c) { put(r, column + v * Vec::width, c); };
  a += k.begin;
  for (; column + kPanel <= columns.end; column += kPanel)
    multiply_panel<R, 2>(a, ld_a, panels + column * depth + k.begin * kPanel, k.end - k.begin, at);
  if (column < columns.end)
    multiply_panel<R, 1>(a, ld_a, panels + column * depth + k.begin * Vec::width, k.end - k.begin, at);
}

// One head: keys, scaled, as [head_dim] x [t_pad] and values as [tokens] x [d_pad], both in panels.
struct HeadOperands {
  float *keys, *values, *scores;
  int64_t t_pad, d_pad;
};

inline int64_t panel_width(int64_t column, int64_t columns) {
  return columns - column < kPanel ? columns - column : kPanel;
}

inline void repack_keys(const AttentionArgs& a, const float* k, const HeadOperands& to) {
  for (int64_t t0 = 0; t0 < to.t_pad; t0 += kPanel) {
    const int64_t lanes = panel_width(t0, to.t_pad), used = a.tokens - t0 < lanes ? a.tokens - t0 : lanes;
    float* key = to.keys + t0 * a.head_dim;
    for (int64_t j = 0; j < a.head_dim; ++j, key += lanes) {
      int64_t i = 0;
      for (; i < used; ++i) key[i] = k[(t0 + i) * a.ld_qkv + j] * a.scaling;
      for (; i < lanes; ++i) key[i] = 0.0f;
    }
  }
}

inline void repack_values(const AttentionArgs& a, const float* v, const HeadOperands& to) {
  for (int64_t j0 = 0; j0 < to.d_pad; j0 += kPanel) {
    const int64_t lanes = panel_width(j0, to.d_pad);
    float* value = to.values + j0 * a.tokens;
    for (int64_t t = 0; t < a.tokens; ++t, value += lanes)
      for (int64_t j = 0; j < lanes; j += Vec::width)
        Vec::load(v + t * a.ld_qkv + j0 + j, a.head_dim - j0 - j).store(value + j);
  }
}

// Replaces scores[0, n) by exp(score - max) and returns 1 / their sum. Columns up to padded are overwritten.
inline float softmax_row(float* scores, int64_t n, int64_t padded) {
  for (int64_t i = n; i < padded; ++i) scores[i] = -__builtin_inff();
  Vec largest = Vec::load(scores);
  for (int64_t i = Vec::width; i < padded; i += Vec::width) largest = max(Vec::load(scores + i), largest);
  const Vec top = Vec::set1(reduce_max(largest));
  Vec sum = Vec::zero();
  for (int64_t i = 0; i < padded; i += Vec::width) {
    const Vec e = exp(Vec::load(scores + i) - top);
    e.store(scores + i);
    sum = sum + e;
  }
  return 1.0f / reduce_add(sum);
}

// Query rows [first, first + R) against all keys.
template <int R>
inline void attend_rows(const AttentionArgs& a, int32_t head, int64_t first, const HeadOperands& h) {
  const float* q = a.qkv + first * a.ld_qkv + head * a.head_dim;
  float* out = a.out + first * a.ld_out + head * a.head_dim;
  const Range keys = keys_of(a, first, R, h.t_pad, kPanel);
  const int64_t last = keys.end < a.tokens ? keys.end : a.tokens;
  multiply_rows<R>(q, a.ld_qkv, h.keys, keys, a.head_dim, {0, a.head_dim},
                   [&](int r, int64_t column, Vec c) { c.store(h.scores + r * h.t_pad + column); });
  float inverse[R];
  for (int r = 0; r < R; ++r) {
    float* scores = h.scores + r * h.t_pad;
    if (a.bias != nullptr || a.windowed()) adjust_scores(a, head, first + r, {keys.begin, last}, scores);
    inverse[r] = softmax_row(scores + keys.begin, last - keys.begin, keys.end - keys.begin);
  }
  multiply_rows<R>(h.scores, h.t_pad, h.values, {0, h.d_pad}, a.tokens, {keys.begin, last},
                   [&](int r, int64_t column, Vec c) {
                     const Vec scaled = c * Vec::set1(inverse[r]);
                     float* to = out + r * a.ld_out + column;
                     if (column + Vec::width <= a.head_dim) {
                       scaled.store(to);
                     } else {
                       scaled.store(to, a.head_dim - column);
                     }
                   });
}

}  // namespace

void layer_norm(const float* x, int64_t ld_x, const float* gamma, const float* beta, float eps, int64_t rows, int64_t n,
                float* y, int64_t ld_y) {
  const int64_t whole = n - n % Vec::width;
  for (int64_t r = 0; r < rows; ++r, x += ld_x, y += ld_y) {
    float total = sum_whole(n, [&](int64_t i) { return Vec::load(x + i); });
    for (int64_t i = whole; i < n; ++i) total += x[i];
    const float mean = total / static_cast<float>(n);
    const Vec mean_lanes = Vec::set1(mean);
    float squares = sum_whole(n, [&](int64_t i) {
      const Vec d = Vec::load(x + i) - mean_lanes;
      return d * d;
    });
    for (int64_t i = whole; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const float inverse = 1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps);
    const Vec inverse_lanes = Vec::set1(inverse);
    for (int64_t i = 0; i < whole; i += Vec::width) {
      const Vec d = (Vec::load(x + i) - mean_lanes) * inverse_lanes;
      fma(d, Vec::load(gamma + i), Vec::load(beta + i)).store(y + i);
    }
    for (int64_t i = whole; i < n; ++i) y[i] = (x[i] - mean) * inverse * gamma[i] + beta[i];
  }
}

void add_scaled_int8(const int8_t* row, float scale, int64_t n, float* out) {
  const Vec factor = Vec::set1(scale);
  int64_t i = 0;
  for (; i + Vec::width <= n; i += Vec::width) fma(Vec::load_s8(row + i), factor, Vec::load(out + i)).store(out + i);
  for (; i < n; ++i) out[i] += static_cast<float>(row[i]) * scale;
}

void rotate(float* x, const float* cosine, const float* sine, int64_t half, int64_t heads) {
  for (int64_t head = 0; head < heads; ++head, x += 2 * half) {
    int64_t i = 0;
    for (; i + Vec::width <= half; i += Vec::width) {
      const Vec a = Vec::load(x + i), b = Vec::load(x + half + i);
      const Vec c = Vec::load(cosine + i), s = Vec::load(sine + i);
      (a * c - b * s).store(x + i);
      (b * c + a * s).store(x + half + i);
    }
    for (; i < half; ++i) {
      const float a = x[i], b = x[half + i];
      x[i] = a * cosine[i] - b * sine[i];
      x[half + i] = b * cosine[i] + a * sine[i];
    }
  }
}

void gate(float* x, int64_t ld, int64_t rows, int64_t n, Activation activation) {
  constexpr int64_t kStep = kAbreast * Vec::width;
  with_activation(activation, [&](auto chosen) {
    for (int64_t r = 0; r < rows; ++r) {
      float *row = x + r * ld, *gate = row + n;
      int64_t c = 0;
      for (; c + kStep <= n; c += kStep) {
        Vec y[kAbreast];
        for (int64_t s = 0; s < kAbreast; ++s) y[s] = Vec::load(row + c + s * Vec::width);
        chosen.apply(y);
        for (int64_t s = 0; s < kAbreast; ++s)
          (y[s] * Vec::load(gate + c + s * Vec::width)).store(row + c + s * Vec::width);
      }
      for (; c < n; c += Vec::width) {
        Vec y[] = {Vec::load(row + c, n - c)};
        chosen.apply(y);
        (y[0] * Vec::load(gate + c, n - c)).store(row + c, n - c);
      }
    }
  });
}

void attention(const AttentionArgs& a, int32_t head_begin, int32_t head_end) {
  HeadOperands h;
  h.t_pad = round_up_to(a.tokens, Vec::width);
  h.d_pad = round_up_to(a.head_dim, Vec::width);
  h.keys = a.scratch;
  h.values = h.keys + round_up_to(a.head_dim * h.t_pad, 16);
  h.scores = h.values + round_up_to(a.tokens * h.d_pad, 16);
  const int64_t width = a.heads * a.head_dim;
  for (int32_t head = head_begin; head < head_end; ++head) {
    const float* q = a.qkv + head * a.head_dim;
    repack_keys(a, q + width, h);
    repack_values(a, q + 2 * width, h);
    int64_t t = 0;
    for (; t + kQueryRows <= a.tokens; t += kQueryRows) attend_rows<kQueryRows>(a, head, t, h);
    for (; t + 2 <= a.tokens; t += 2) attend_rows<2>(a, head, t, h);
    if (t < a.tokens) attend_rows<1>(a, head, t, h);
  }
}

}  // namespace kdnative::cpu::KDNATIVE_ISA
