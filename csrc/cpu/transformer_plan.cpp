// How the work of a group of sequences is shared: the tasks, and the stages that tasks wait between.
#include <new>

#include "transformer_group.h"

namespace kdnative::cpu {
namespace {

// From this many rows a thread on, a task is a block of rows that goes through several steps while it is in the cache;
// below it, one product is shared by all threads along its columns.
constexpr int64_t kRowsPerThread = 32;
// Blocks of whole sequences go through whole layers where each thread gets that many blocks, or all get the same.
constexpr int64_t kBlocksPerThread = 4;

}  // namespace

// Whole sequences in blocks of up to row_block rows; none where a sequence is longer.
void Group::gather_blocks() {
  block_count = 0;
  for (int64_t sequence = 0; sequence < sequences;) {
    blocks[block_count++] = sequence;
    const int64_t begin = row_of(sequence);
    if (row_of(sequence + 1) - begin > kernels.row_block) {
      block_count = 0;
      return;
    }
    while (sequence < sequences && row_of(sequence + 1) - begin <= kernels.row_block) ++sequence;
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

  const int64_t steps = 1 + layers() * kLayerSteps;
  const auto joins = [&](Step previous, Step s) {
    if (share == Share::sequences) return s != Step::quantize_input || previous == Step::embed;
    if (previous == Step::attention || s == Step::attention) return false;
    return share == Share::rows ? s != Step::quantize_input : !is_product(previous) && !is_product(s);
  };
  stage_count = 0;
  for (int64_t i = 0; i < steps;) {
    Steps& stage = *new (&stages[stage_count++]) Steps;
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
        stage.row_block =
            round_up(ceil_div(count, threads * ceil_div(count, threads * kernels.row_block)), kernels.tile_rows);
      if (share == Share::columns && is_product(first)) {
        stage.row_block = kernels.row_block;
        stage.parts = weight_of(first, layer(stage.begin)).n_pad / kTileN;
        stage.part_block = ceil_div(stage.parts * ceil_div(count, kernels.row_block), 4 * threads);
      }
      stage.row_blocks = ceil_div(count, stage.row_block);
    }
    stage.tasks = stage.row_blocks * ceil_div(stage.parts, stage.part_block);
  }
}

}  // namespace kdnative::cpu
