// A transformer as a program of steps (quantize, multiply, normalise ...) that a team of threads runs on one group of
// sequences after the other.
#include "transformer.h"

#include <algorithm>

#include "scratch.h"
#include "transformer_group.h"

namespace kdnative::cpu {
namespace {

// Sequences are processed in groups of about this many tokens, which bounds the working memory. The group's weights
// pass by once a layer, so larger is better, unless attention reads what the whole group has written: that should still
// be in the nearer caches.
constexpr int64_t kGroupTokens = 1024, kShortGroupTokens = 4096;
// Multiply-adds that make one more thread worth waking.
constexpr int64_t kWorkPerThread = int64_t{1} << 22;

Widths widths_of(const Kernels& kernels, const TransformerModel& m, bool causal) {
  Widths w;
  w.columns = m.relative_bias != nullptr;
  for (const TransformerLayer& l : m.layers) {
    w.attention = std::max(w.attention, l.heads * l.head_dim);
    w.head_dim = std::max(w.head_dim, l.head_dim);
    w.ffn = std::max(w.ffn, l.ffn_in.n);
    w.columns |= l.window >= 0 || causal;
    w.normed_rows |= l.attention_before.gamma != nullptr || l.ffn_before.gamma != nullptr;
    for (const PackedLinear* p : {&l.qkv, &l.output, &l.ffn_in, &l.ffn_out}) {
      w.k_pad = std::max(w.k_pad, p->k_pad);
      w.group_sums |= p->bits != 8;
      w.panel = std::max(w.panel, panel_bytes(kernels, *p));
      w.multiply_adds += p->n * p->k;
    }
  }
  return w;
}

}  // namespace

void Group::embed(int64_t begin, int64_t end) const {
  const int64_t hidden = model.hidden;
  if (in.hidden_states.data != nullptr) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t b = tokens[r].index / in.tokens, t = tokens[r].index % in.tokens;
      const float* from = in.hidden_states.data + b * in.hidden_states.batch_stride + t * in.hidden_states.token_stride;
      std::copy(from, from + hidden, x + r * hidden);
    }
    return;
  }
  const auto add = [&](const EmbeddingTable& table, int64_t row, float* to) {
    kernels.add_scaled_int8(table.rows + row * hidden, table.scale[row], hidden, to);
  };
  for (int64_t r = begin; r < end; ++r) {
    float* row = x + r * hidden;
    std::fill(row, row + hidden, 0.0f);
    add(model.word, tokens[r].id, row);
    if (model.token_type.count > 0) add(model.token_type, tokens[r].token_type, row);
    if (model.position.count > 0) add(model.position, tokens[r].position, row);
  }
  float* rows = x + begin * hidden;
  kernels.layer_norm(rows, hidden, model.norm.gamma, model.norm.beta, model.eps, end - begin, hidden, rows, hidden);
}

// Copies rows that are a hidden state to their places, if it is wanted and was not computed there, and clears the
// dropped rows before each, and after the last.
void Group::keep(int64_t state, int64_t begin, int64_t end) const {
  const int64_t hidden = model.hidden;
  const bool last = state == layers(), in_place = x == out + first_row * hidden;
  if (in.states == 0 && (!last || in_place)) return;
  float* to = out + (in.states == 0 ? 0 : state * in.batch * in.tokens * hidden);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t at = tokens[r].index, gap = r == 0 ? first_row : tokens[r - 1].index + 1;
    std::fill(to + gap * hidden, to + at * hidden, 0.0f);
    std::copy(x + r * hidden, x + (r + 1) * hidden, to + at * hidden);
    if (r + 1 == count) std::fill(to + (at + 1) * hidden, to + end_row * hidden, 0.0f);
  }
}

void Group::attend(const TransformerLayer& l, int64_t sequence, int64_t first, int64_t head_begin, int64_t head_end,
                   int64_t worker) const {
  const int64_t width = l.heads * l.head_dim, begin = row_of(sequence), length = row_of(sequence + 1) - begin;
  if (length == 0) return;
  float* rows = qkv_rows(l, begin, first, worker).data;
  if (in.rotary != nullptr || l.rotary != nullptr) {
    const int64_t half = l.head_dim / 2, at = head_begin * l.head_dim, heads = head_end - head_begin;
    for (int64_t r = 0; r < length; ++r) {
      const Token& token = tokens[begin + r];
      const float* cosine = in.rotary != nullptr ? in.rotary + token.index % in.rotary_tokens * 2 * half
                                                 : l.rotary + token.position * 2 * half;
      for (int64_t part = 0; part < 2; ++part)  // queries, keys
        kernels.rotate(rows + (3 * r + part) * width + at, cosine, cosine + half, half, heads);
    }
  }
  const bool relative = model.relative_bias != nullptr;
  const int64_t window = l.window < 0 ? kEveryKey : l.window;
  const bool consecutive = tokens[begin + length - 1].index - tokens[begin].index == length - 1;
  const AttentionArgs args{
      .qkv = rows,
      .ld_qkv = 3 * width,
      .out = context_rows(l, begin, first, worker).data,
      .ld_out = width,
      .tokens = length,
      .heads = static_cast<int32_t>(l.heads),
      .head_dim = static_cast<int32_t>(l.head_dim),
      .scaling = l.scaling,
      .scratch = attention_scratch + worker * attention_floats,
      .bias = relative ? model.relative_bias + model.bias_span : nullptr,
      .bias_stride = 2 * model.bias_span + 1,
      .before = window,
      .after = in.causal ? 0 : window,
      .columns = columns == nullptr || consecutive ? nullptr : columns + begin,
  };
  kernels.attention(args, static_cast<int32_t>(head_begin), static_cast<int32_t>(head_end));
}

// A step over rows [begin, end) and, for a product, column tiles [tile_begin, tile_end).
void Group::compute(Step s, const TransformerLayer& l, int64_t begin, int64_t end, int64_t tile_begin, int64_t tile_end,
                    int64_t worker) const {
  const int64_t hidden = model.hidden, rows = end - begin;
  const PackedLinear& w = weight_of(s, l);
  // Where these rows are in q .. ffn: the worker's own place, or the group's, with rows as far apart as this step's
  // are.
  const auto at = [&](int64_t widest, int64_t own) {
    return share == Share::columns ? begin * own : worker * buffer_rows * widest;
  };
  const int64_t ld_codes = quantized_row_bytes(w.k_pad);
  int8_t* codes = q + at(quantized_row_bytes(widths.k_pad), ld_codes);
  float* scales = scale + at(1, 1);
  int32_t* sums = w.bits != 8 ? group_sum + at(widths.k_pad / 32, w.k_pad / 32) : nullptr;
  const Matrix residual{x + begin * hidden, hidden}, heads = qkv_rows(l, begin, begin, worker);
  const Matrix attended = context_rows(l, begin, begin, worker), inner{ffn + at(widths.ffn, l.ffn_in.n), l.ffn_in.n};
  const auto quantize = [&](const Matrix& from) {
    kernels.quantize_rows(from.data, DType::f32, from.stride, w.input_scale, rows, w.k, w.k_pad, codes, ld_codes,
                          scales, sums);
  };
  const auto normalise = [&](const Norm& norm, const Matrix& to) {
    kernels.layer_norm(residual.data, hidden, norm.gamma, norm.beta, model.eps, rows, hidden, to.data, to.stride);
  };
  const auto quantize_input = [&](const Norm& before) {
    if (before.gamma == nullptr) return quantize(residual);
    const Matrix rows_normed{normed + at(hidden, hidden), hidden};
    normalise(before, rows_normed);
    quantize(rows_normed);
  };
  const auto multiply = [&](const Matrix& to, Activation activation, const float* add) {
    const Epilogue e{to.data, to.stride, DType::f32, activation, add, to.stride};
    int8_t* panel = panels + worker * widths.panel;
    gemm_of(kernels, w)(w, {codes, ld_codes, scales, sums, w.k_pad}, e, {0, rows, tile_begin, tile_end, panel});
  };
  switch (s) {
    case Step::quantize_input:
      return quantize_input(l.attention_before);
    case Step::quantize_ffn_input:
      return quantize_input(l.ffn_before);
    case Step::quantize_context:
      return quantize(attended);
    case Step::quantize_ffn:
      if (l.gated) kernels.gate(inner.data, inner.stride, rows, l.ffn, model.activation);
      return quantize(inner);
    case Step::qkv:
      return multiply(heads, Activation::none, nullptr);
    case Step::ffn_in:
      return multiply(inner, l.gated ? Activation::none : model.activation, nullptr);
    case Step::output:
    case Step::ffn_out:
      return multiply(residual, Activation::none, residual.data);
    case Step::attention_norm:
    default: {
      const Norm& after = s == Step::attention_norm ? l.attention_after : l.ffn_after;
      if (after.gamma != nullptr) normalise(after, residual);
    }
  }
}

void Group::run_task(const Steps& stage, int64_t task, int64_t worker) const {
  const int64_t block = task % stage.row_blocks;
  const int64_t part = task / stage.row_blocks * stage.part_block,
                part_end = std::min(part + stage.part_block, stage.parts);
  const bool sequential = share == Share::sequences;
  const int64_t begin = sequential ? row_of(blocks[block]) : block * stage.row_block;
  const int64_t end = sequential ? row_of(blocks[block + 1]) : std::min(begin + stage.row_block, count);
  for (int64_t i = stage.begin; i < stage.end; ++i) {
    const Step s = step(i);
    if (s == Step::embed) {
      embed(begin, end);
      keep(0, begin, end);
    } else if (s == Step::attention && sequential) {
      for (int64_t sequence = blocks[block]; sequence < blocks[block + 1]; ++sequence)
        attend(layer(i), sequence, begin, 0, layer(i).heads, worker);
    } else if (s == Step::attention) {
      attend(layer(i), block, 0, part, part_end, worker);
    } else {
      const bool all = share != Share::columns;
      const int64_t tiles = weight_of(s, layer(i)).n_pad / kTileN;
      compute(s, layer(i), begin, end, all ? 0 : part, all ? tiles : part_end, worker);
      if (s == Step::output_norm) keep(i / kLayerSteps, begin, end);
    }
  }
}

const char* check_output(const TransformerInputs& in) {
  TransformerHeader h;
  if (const char* problem = TransformerReader(in.packed, in.packed_bytes).read_header(&h)) return problem;
  if (h.hidden != in.hidden_size)
    return complain("hidden_size is %lld, but the packed encoder is %lld wide", in.hidden_size, h.hidden);
  if (in.states != 0 && in.states - 1 != h.layers)
    return complain("layers is %lld, but the packed encoder has %lld", in.states - 1, h.layers);
  return nullptr;
}

const char* transformer_forward(const Kernels& kernels, const Parallel& parallel, const TransformerInputs& in,
                                float* out) {
  thread_local TransformerModel model;  // keeps its layer list from call to call
  if (const char* problem = check_output(in)) return problem;
  if (const char* problem = TransformerReader(in.packed, in.packed_bytes).read(&model)) return problem;
  const int64_t layers = static_cast<int64_t>(model.layers.size()), states = std::max(in.states, int64_t{1});
  const int64_t rows = in.batch * in.tokens;
  if (rows == 0) return nullptr;
  if (model.word.count == 0 && in.input_ids)
    return "the packed encoder has no embeddings; call encoder_layers with hidden states";
  if (model.word.count > 0 && !in.input_ids) return "the packed encoder has embeddings; call encoder with ids";
  for (const TransformerLayer& layer : model.layers)
    if (in.rotary != nullptr && layer.head_dim != 2 * in.rotary_half)
      return complain("rotary turns heads of %lld, but those of the packed encoder are %lld wide", 2 * in.rotary_half,
                      layer.head_dim);

  const Widths widths = widths_of(kernels, model, in.causal);
  const int64_t group_tokens = in.tokens <= kernels.row_block ? kShortGroupTokens : kGroupTokens;
  const int64_t most_rows = std::min(rows, std::max(group_tokens, in.tokens));  // of one group
  const int64_t buffer_rows = std::min(kernels.row_block, round_up(most_rows, 16)),
                all_buffers = parallel.threads * buffer_rows;
  Group g{kernels, model, in, out};
  g.widths = widths;
  g.buffer_rows = buffer_rows;
  g.attention_floats = round_up(attention_scratch(in.tokens, widths.head_dim), 16);
  Token* tokens = nullptr;
  int32_t* columns = nullptr;
  int64_t* starts = nullptr;
  float* x = nullptr;
  const auto carve = [&](Carver c) {
    tokens = c.take<Token>(rows);
    columns = c.take<int32_t>(widths.columns ? rows : 0);
    starts = c.take<int64_t>(in.batch + 1);
    g.blocks = c.take<int64_t>(in.batch + 1);
    x = c.take<float>(most_rows * model.hidden);
    g.qkv = c.take<float>(std::max(most_rows, all_buffers) * 3 * widths.attention);
    g.context = c.take<float>(std::max(most_rows, all_buffers) * widths.attention);
    g.q = c.take<int8_t>(all_buffers * quantized_row_bytes(widths.k_pad));
    g.scale = c.take<float>(all_buffers);
    g.group_sum = c.take<int32_t>(widths.group_sums ? all_buffers * (widths.k_pad / 32) : 0);
    g.ffn = c.take<float>(all_buffers * widths.ffn);
    g.normed = c.take<float>(widths.normed_rows ? all_buffers * model.hidden : 0);
    g.panels = c.take<int8_t>(parallel.threads * widths.panel);
    g.attention_scratch = c.take<float>(parallel.threads * g.attention_floats);
    g.stages = c.take<Steps>(1 + kLayerSteps * layers);
    return c.used();
  };
  carve(Carver(scratch(carve(Carver()))));
  if (const char* problem = collect_tokens(model, in, tokens, widths.columns ? columns : nullptr, starts))
    return problem;

  for (int64_t first = 0, last = 0; first < in.batch; first = last) {
    for (last = first + 1; last < in.batch && starts[last + 1] - starts[first] <= group_tokens; ++last) {
    }
    g.tokens = tokens + starts[first];
    g.columns = widths.columns ? columns + starts[first] : nullptr;
    g.starts = starts + first;
    g.sequences = last - first;
    g.count = starts[last] - starts[first];
    g.first_row = first * in.tokens;
    g.end_row = last * in.tokens;
    if (g.count == 0) {
      for (int64_t state = 0; state < states; ++state) {
        float* slab = out + state * rows * model.hidden;
        std::fill(slab + g.first_row * model.hidden, slab + g.end_row * model.hidden, 0.0f);
      }
      continue;
    }
    // Without padding the rows are worked on where they will be wanted.
    const bool in_place = in.states == 0 && g.count == g.end_row - g.first_row;
    g.x = in_place ? out + g.first_row * model.hidden : x;
    g.threads = std::clamp(g.count * widths.multiply_adds / kWorkPerThread, int64_t{1}, parallel.threads);
    g.plan();
    run_team(parallel, g.threads, g.stages, g.stage_count,
             [&](int64_t stage, int64_t task, int64_t worker) { g.run_task(g.stages[stage], task, worker); });
  }
  return nullptr;
}

}  // namespace kdnative::cpu
