// The encoder as a program of steps (quantize, multiply, normalise ...), cut into stages for a team of threads.
#include "encoder.h"

#include <algorithm>
#include <new>

#include "encoder_format.h"
#include "encoder_stages.h"
#include "encoder_tokens.h"
#include "scratch.h"

namespace kdnative::cpu {
namespace {

// Sequences are processed in groups of about this many tokens, which bounds the working memory. The group's weights
// pass by once a layer, so larger is better, unless attention reads what the whole group has written: that should still
// be in the nearer caches.
constexpr int64_t kGroupTokens = 1024, kShortGroupTokens = 4096;
// From this many rows a thread on, a task is a block of rows that goes through several steps while it is in the cache;
// below it, one product is shared by all threads along its columns.
constexpr int64_t kRowsPerThread = 32;
constexpr int64_t kRowBlock = 128;
// Blocks of whole sequences go through whole layers where each thread gets that many blocks, or all get the same.
constexpr int64_t kBlocksPerThread = 4;
// Multiply-adds that make one more thread worth waking.
constexpr int64_t kWorkPerThread = int64_t{1} << 22;

// In the order of execution: embed, the steps between for every layer, store (only where padding was dropped).
enum class Step : int64_t {
  embed,
  quantize_input,
  qkv,
  attention,
  quantize_context,
  output,
  attention_norm,
  quantize_ffn_input,
  ffn_in,
  quantize_ffn,
  ffn_out,
  output_norm,
  store
};
constexpr int64_t kLayerSteps = static_cast<int64_t>(Step::output_norm);

bool is_product(Step s) { return s == Step::qkv || s == Step::output || s == Step::ffn_in || s == Step::ffn_out; }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// The product that a step computes or prepares the input of.
const PackedLinear& weight_of(Step s, const EncoderLayer& layer) {
  if (s <= Step::qkv) return layer.qkv;
  if (s <= Step::output) return layer.output;
  return s <= Step::ffn_in ? layer.ffn_in : layer.ffn_out;
}

struct Widths {  // the largest of any layer
  int64_t attention = 0, head_dim = 0, ffn = 0, k_pad = 0, panel = 0;
  bool group_sums = false, normed_rows = false, columns = false;
  int64_t multiply_adds = 0;  // a token
};

Widths widths_of(const EncoderModel& m) {
  Widths w;
  w.columns = m.relative_bias != nullptr;
  for (const EncoderLayer& l : m.layers) {
    w.attention = std::max(w.attention, l.heads * l.head_dim);
    w.head_dim = std::max(w.head_dim, l.head_dim);
    w.ffn = std::max(w.ffn, l.ffn_in.n);
    w.columns |= l.window >= 0;
    w.normed_rows |= l.attention_before.gamma != nullptr || l.ffn_before.gamma != nullptr;
    for (const PackedLinear* p : {&l.qkv, &l.output, &l.ffn_in, &l.ffn_out}) {
      w.k_pad = std::max(w.k_pad, p->k_pad);
      w.group_sums |= p->bits != 8;
      w.panel = std::max(w.panel, panel_bytes(*p));
      w.multiply_adds += p->n * p->k;
    }
  }
  return w;
}

// What a task is, from the smallest batch to the largest; with it, whose the working memory is.
enum class Share {
  columns,   // columns of one product, or one head: all memory is the group's
  rows,      // a block of rows between two attentions: q .. normed are the worker's, qkv and context the group's
  sequences  // whole sequences, kRowBlock rows at most, through a layer: all but x is the worker's and stays in its
             // cache
};

struct Matrix {
  float* data;
  int64_t stride;
};

// The forward pass of one group of sequences. Everything is set before the team starts and only read by it, except the
// working memory and the stages' counters.
struct Group {
  const Kernels& kernels;
  const EncoderModel& model;
  const EncoderInputs& in;
  float* out;
  int64_t threads = 1;
  Share share = Share::columns;

  float *x = nullptr, *qkv = nullptr, *context = nullptr;  // [count, ...]
  int8_t* q = nullptr;
  float* scale = nullptr;
  int32_t* group_sum = nullptr;
  float *ffn = nullptr, *normed = nullptr;
  int64_t buffer_rows = 0;  // of a worker
  Widths widths{};
  float* attention_scratch = nullptr;
  int64_t attention_floats = 0;  // of a worker
  int8_t* panels = nullptr;
  Stage* stages = nullptr;
  int64_t stage_count = 0;

  const Token* tokens = nullptr;     // the kept ones of this group
  const int32_t* columns = nullptr;  // of these tokens; nullptr where no layer asks for them
  const int64_t* starts = nullptr;   // of its sequences, counted from the first token of the batch
  int64_t* blocks = nullptr;         // Share::sequences: the first sequence of each block, and the end
  int64_t block_count = 0;
  int64_t count = 0, sequences = 0;
  int64_t first_row = 0, end_row = 0;  // of out

  int64_t layers() const { return static_cast<int64_t>(model.layers.size()); }
  Step step(int64_t index) const {
    if (index == 0) return Step::embed;
    return index > layers() * kLayerSteps ? Step::store : static_cast<Step>(1 + (index - 1) % kLayerSteps);
  }
  const EncoderLayer& layer(int64_t index) const {
    return model.layers[static_cast<size_t>((index - 1) / kLayerSteps)];
  }

  void embed(int64_t begin, int64_t end) const;
  void store(int64_t begin, int64_t end) const;
  int64_t row_of(int64_t sequence) const { return starts[sequence] - starts[0]; }
  // Queries, keys and values of the rows from `row` on, and what attention makes of them; a task's rows begin at
  // `first`.
  Matrix qkv_rows(const EncoderLayer& l, int64_t row, int64_t first, int64_t worker) const {
    return attention_rows(qkv, l, 3, row, first, worker);
  }
  Matrix context_rows(const EncoderLayer& l, int64_t row, int64_t first, int64_t worker) const {
    return attention_rows(context, l, 1, row, first, worker);
  }
  Matrix attention_rows(float* data, const EncoderLayer& l, int64_t parts, int64_t row, int64_t first,
                        int64_t worker) const {
    const int64_t width = parts * l.heads * l.head_dim;
    if (share != Share::sequences) return {data + row * width, width};
    return {data + worker * buffer_rows * parts * widths.attention + (row - first) * width, width};
  }
  void attend(const EncoderLayer& l, int64_t sequence, int64_t first, int64_t head_begin, int64_t head_end,
              int64_t worker) const;
  void compute(Step s, const EncoderLayer& l, int64_t begin, int64_t end, int64_t tile_begin, int64_t tile_end,
               int64_t worker) const;
  void run_task(const Stage& stage, int64_t task, int64_t worker) const;
  void gather_blocks();
  void plan();
};

void Group::embed(int64_t begin, int64_t end) const {
  const int64_t hidden = model.hidden;
  const auto add = [&](const EmbeddingTable& table, int64_t row, float* to) {
    kernels.add_scaled_int8(table.rows + row * hidden, table.scale[row], hidden, to);
  };
  for (int64_t r = begin; r < end; ++r) {
    float* row = x + r * hidden;
    std::fill(row, row + hidden, 0.0f);
    add(model.word, in.input_ids[tokens[r].index], row);
    if (model.token_type.count > 0) add(model.token_type, tokens[r].token_type, row);
    if (model.position.count > 0) add(model.position, tokens[r].position, row);
  }
  float* rows = x + begin * hidden;
  kernels.layer_norm(rows, hidden, model.norm.gamma, model.norm.beta, model.eps, end - begin, hidden, rows, hidden);
}

// Copies rows to their places and clears the dropped rows before each, and after the last.
void Group::store(int64_t begin, int64_t end) const {
  const int64_t hidden = model.hidden;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t at = tokens[r].index, gap = r == 0 ? first_row : tokens[r - 1].index + 1;
    std::fill(out + gap * hidden, out + at * hidden, 0.0f);
    std::copy(x + r * hidden, x + (r + 1) * hidden, out + at * hidden);
    if (r + 1 == count) std::fill(out + (at + 1) * hidden, out + end_row * hidden, 0.0f);
  }
}

void Group::attend(const EncoderLayer& l, int64_t sequence, int64_t first, int64_t head_begin, int64_t head_end,
                   int64_t worker) const {
  const int64_t width = l.heads * l.head_dim, begin = row_of(sequence), length = row_of(sequence + 1) - begin;
  if (length == 0) return;
  float* rows = qkv_rows(l, begin, first, worker).data;
  if (l.rotary != nullptr) {
    const int64_t half = model.rotary_half, at = head_begin * l.head_dim, heads = head_end - head_begin;
    for (int64_t r = 0; r < length; ++r) {
      const float* cosine = l.rotary + tokens[begin + r].position * 2 * half;
      for (int64_t part = 0; part < 2; ++part)  // queries, keys
        kernels.rotate(rows + (3 * r + part) * width + at, cosine, cosine + half, half, heads);
    }
  }
  const bool relative = model.relative_bias != nullptr;
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
      .window = l.window,
      .columns = columns == nullptr || consecutive ? nullptr : columns + begin,
  };
  kernels.attention(args, static_cast<int32_t>(head_begin), static_cast<int32_t>(head_end));
}

// A step over rows [begin, end) and, for a product, column tiles [tile_begin, tile_end).
void Group::compute(Step s, const EncoderLayer& l, int64_t begin, int64_t end, int64_t tile_begin, int64_t tile_end,
                    int64_t worker) const {
  const int64_t hidden = model.hidden, rows = end - begin;
  const PackedLinear& w = weight_of(s, l);
  // Where these rows are in q .. ffn: the worker's own place, or the group's, with rows as far apart as this step's
  // are.
  const auto at = [&](int64_t widest, int64_t own) {
    return share == Share::columns ? begin * own : worker * buffer_rows * widest;
  };
  int8_t* codes = q + at(widths.k_pad, w.k_pad);
  float* scales = scale + at(1, 1);
  int32_t* sums = w.bits != 8 ? group_sum + at(widths.k_pad / 32, w.k_pad / 32) : nullptr;
  const Matrix residual{x + begin * hidden, hidden}, heads = qkv_rows(l, begin, begin, worker);
  const Matrix attended = context_rows(l, begin, begin, worker), inner{ffn + at(widths.ffn, l.ffn_in.n), l.ffn_in.n};
  const auto quantize = [&](const Matrix& from) {
    kernels.quantize_rows(from.data, DType::f32, from.stride, rows, w.k, w.k_pad, codes, scales, sums);
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
    gemm_of(kernels, w)(w, {codes, scales, sums, w.k_pad}, e, {0, rows, tile_begin, tile_end, panel});
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

void Group::run_task(const Stage& stage, int64_t task, int64_t worker) const {
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
    } else if (s == Step::store) {
      store(begin, end);
    } else if (s == Step::attention && sequential) {
      for (int64_t sequence = blocks[block]; sequence < blocks[block + 1]; ++sequence)
        attend(layer(i), sequence, begin, 0, layer(i).heads, worker);
    } else if (s == Step::attention) {
      attend(layer(i), block, 0, part, part_end, worker);
    } else {
      const bool all = share != Share::columns;
      const int64_t tiles = weight_of(s, layer(i)).n_pad / kTileN;
      compute(s, layer(i), begin, end, all ? 0 : part, all ? tiles : part_end, worker);
    }
  }
}

// Whole sequences in blocks of up to kRowBlock rows; none where a sequence is longer.
void Group::gather_blocks() {
  block_count = 0;
  for (int64_t sequence = 0; sequence < sequences;) {
    blocks[block_count++] = sequence;
    const int64_t begin = row_of(sequence);
    if (row_of(sequence + 1) - begin > kRowBlock) {
      block_count = 0;
      return;
    }
    while (sequence < sequences && row_of(sequence + 1) - begin <= kRowBlock) ++sequence;
  }
  blocks[block_count] = sequences;
}

// A stage ends where its tasks would need what others compute. By columns, a product is a stage of its own, and the
// steps between products share one. By rows, a stage runs on until attention, which needs other rows, and starts anew
// before the QKV product so that fewer weights compete for the cache. By sequences, a stage is a layer: longer ones
// would read the weights of the next layer while those of this one are near.
void Group::plan() {
  gather_blocks();
  share = threads == 1 || count >= kRowsPerThread * threads ? Share::rows : Share::columns;
  if (share == Share::rows && block_count > 0 &&
      (block_count % threads == 0 || block_count >= kBlocksPerThread * threads))
    share = Share::sequences;

  const int64_t steps = 1 + layers() * kLayerSteps + (x == out + first_row * model.hidden ? 0 : 1);
  const auto joins = [&](Step previous, Step s) {
    if (share == Share::sequences) return s != Step::quantize_input || previous == Step::embed;
    if (previous == Step::attention || s == Step::attention) return false;
    return share == Share::rows ? s != Step::quantize_input : !is_product(previous) && !is_product(s);
  };
  stage_count = 0;
  for (int64_t i = 0; i < steps;) {
    Stage& stage = *new (&stages[stage_count++]) Stage;
    stage.begin = i;
    do ++i;
    while (i < steps && joins(step(i - 1), step(i)));
    stage.end = i;
    const Step first = step(stage.begin);
    stage.parts = stage.part_block = 1;
    stage.row_block = ceil_div(count, 2 * threads);
    if (share == Share::sequences) {
      stage.row_blocks = block_count;
    } else if (first == Step::attention) {  // one sequence, and all heads when there are sequences enough
      stage.row_blocks = sequences;
      stage.parts = layer(stage.begin).heads;
      if (threads == 1 || sequences >= 4 * threads) stage.part_block = stage.parts;
    } else {
      if (share == Share::rows)
        stage.row_block = round_up(ceil_div(count, threads * ceil_div(count, threads * kRowBlock)), 16);
      if (share == Share::columns && is_product(first)) {
        stage.row_block = kRowBlock;
        stage.parts = weight_of(first, layer(stage.begin)).n_pad / kTileN;
        stage.part_block = ceil_div(stage.parts * ceil_div(count, kRowBlock), 4 * threads);
      }
      stage.row_blocks = ceil_div(count, stage.row_block);
    }
    stage.tasks = stage.row_blocks * ceil_div(stage.parts, stage.part_block);
  }
}

void enter_team(int64_t begin, int64_t end, void* ctx) {
  const auto& group = *static_cast<const Group*>(ctx);
  for (int64_t worker = begin; worker < end; ++worker) {
    run_stages(group.stages, group.stage_count,
               [&](const Stage& stage, int64_t task) { group.run_task(stage, task, worker); });
  }
}

}  // namespace

const char* encoder_forward(const Kernels& kernels, const Parallel& parallel, const EncoderInputs& in, float* out) {
  thread_local EncoderModel model;  // keeps its layer list from call to call
  if (const char* problem = EncoderReader(in.packed, in.packed_bytes).read(&model)) return problem;
  if (model.hidden != in.hidden_size)
    return complain("hidden_size is %lld, but the packed encoder is %lld wide", in.hidden_size, model.hidden);
  const int64_t rows = in.batch * in.tokens;
  if (rows == 0) return nullptr;

  const Widths widths = widths_of(model);
  const int64_t group_tokens = in.tokens <= kRowBlock ? kShortGroupTokens : kGroupTokens;
  const int64_t most_rows = std::min(rows, std::max(group_tokens, in.tokens));  // of one group
  const int64_t buffer_rows = std::min(kRowBlock, round_up(most_rows, 16)),
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
    g.q = c.take<int8_t>(all_buffers * widths.k_pad);
    g.scale = c.take<float>(all_buffers);
    g.group_sum = c.take<int32_t>(widths.group_sums ? all_buffers * (widths.k_pad / 32) : 0);
    g.ffn = c.take<float>(all_buffers * widths.ffn);
    g.normed = c.take<float>(widths.normed_rows ? all_buffers * model.hidden : 0);
    g.panels = c.take<int8_t>(parallel.threads * widths.panel);
    g.attention_scratch = c.take<float>(parallel.threads * g.attention_floats);
    g.stages = c.take<Stage>(2 + kLayerSteps * static_cast<int64_t>(model.layers.size()));
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
    float* group_out = out + g.first_row * model.hidden;
    if (g.count == 0) {
      std::fill(group_out, out + g.end_row * model.hidden, 0.0f);
      continue;
    }
    // Without padding the rows are worked on where they will be wanted.
    g.x = g.count == g.end_row - g.first_row ? group_out : x;
    g.threads = std::clamp(g.count * widths.multiply_adds / kWorkPerThread, int64_t{1}, parallel.threads);
    g.plan();
    if (g.threads == 1) {
      enter_team(0, 1, &g);
    } else {
      parallel.run(g.threads, enter_team, &g);
    }
  }
  return nullptr;
}

}  // namespace kdnative::cpu
