// One group of sequences on its way through the layers: what it needs, how its work is shared, and its steps.
#pragma once

#include <algorithm>

#include "rounding_up.h"
#include "split.h"
#include "transformer.h"
#include "transformer_format.h"
#include "transformer_tokens.h"

namespace kdnative::cpu {

// A task runs steps [begin, end) of the program on one row block and some parts.
struct Steps : Stage {
  int64_t begin, end;             // steps of the program
  int64_t row_block, row_blocks;  // task t: row block t % row_blocks,
  int64_t part_block, parts;      // and part_block columns (or heads) of parts, from t / row_blocks * part_block
};

// In the order of execution: embed, then the others for every layer.
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
  output_norm
};
constexpr int64_t kLayerSteps = static_cast<int64_t>(Step::output_norm);

inline bool is_product(Step s) {
  return s == Step::qkv || s == Step::output || s == Step::ffn_in || s == Step::ffn_out;
}

// The product that a step computes or prepares the input of.
inline const PackedLinear& weight_of(Step s, const TransformerLayer& layer) {
  if (s <= Step::qkv) return layer.qkv;
  if (s <= Step::output) return layer.output;
  return s <= Step::ffn_in ? layer.ffn_in : layer.ffn_out;
}

struct Widths {  // the largest of any layer
  int64_t attention = 0, head_dim = 0, ffn = 0, k_pad = 0, panel = 0;
  bool group_sums = false, normed_rows = false, columns = false;
  int64_t multiply_adds = 0;  // a token
};

// What a task is, from the smallest batch to the largest; with it, whose the working memory is.
enum class Share {
  columns,   // columns of one product, or one head: all memory is the group's
  rows,      // a block of rows between two attentions: q .. normed are the worker's, qkv and context the group's
  sequences  // whole sequences, row_block rows at most, through a layer: all but x is the worker's, and small
};

struct Matrix {
  float* data;
  int64_t stride;
};

// The forward pass of one group of sequences. Everything is set before the team starts and only read by it, except the
// working memory and the stages' counters.
struct Group {
  const Kernels& kernels;
  const TransformerModel& model;
  const TransformerInputs& in;
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
  Steps* stages = nullptr;
  int64_t stage_count = 0;

  const Token* tokens = nullptr;     // the kept ones of this group
  const int32_t* columns = nullptr;  // of these tokens; nullptr where no layer asks for them
  const int64_t* starts = nullptr;   // of its sequences, counted from the first token of the batch
  int64_t* blocks = nullptr;         // Share::sequences: the first sequence of each block, and the end
  int64_t block_count = 0;
  int64_t count = 0, sequences = 0;
  int64_t first_row = 0, end_row = 0;  // of out

  int64_t layers() const { return static_cast<int64_t>(model.layers.size()); }
  Step step(int64_t index) const { return index == 0 ? Step::embed : static_cast<Step>(1 + (index - 1) % kLayerSteps); }
  const TransformerLayer& layer(int64_t index) const {
    return model.layers[static_cast<size_t>((index - 1) / kLayerSteps)];
  }

  void embed(int64_t begin, int64_t end) const;
  void keep(int64_t state, int64_t begin, int64_t end) const;
  int64_t row_of(int64_t sequence) const { return starts[sequence] - starts[0]; }
  // Queries, keys and values of the rows from `row` on, and what attention makes of them; a task's rows begin at
  // `first`.
  Matrix qkv_rows(const TransformerLayer& l, int64_t row, int64_t first, int64_t worker) const {
    return attention_rows(qkv, l, 3, row, first, worker);
  }
  Matrix context_rows(const TransformerLayer& l, int64_t row, int64_t first, int64_t worker) const {
    return attention_rows(context, l, 1, row, first, worker);
  }
  Matrix attention_rows(float* data, const TransformerLayer& l, int64_t parts, int64_t row, int64_t first,
                        int64_t worker) const {
    const int64_t width = parts * l.heads * l.head_dim;
    if (share != Share::sequences) return {data + row * width, width};
    return {data + worker * buffer_rows * parts * widths.attention + (row - first) * width, width};
  }
  void attend(const TransformerLayer& l, int64_t sequence, int64_t first, int64_t head_begin, int64_t head_end,
              int64_t worker) const;
  void compute(Step s, const TransformerLayer& l, int64_t begin, int64_t end, int64_t tile_begin, int64_t tile_end,
               int64_t worker) const;
  void run_task(const Steps& stage, int64_t task, int64_t worker) const;
  void gather_blocks();
  void plan();
};

}  // namespace kdnative::cpu
