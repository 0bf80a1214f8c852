// A network of convolutions by a team of threads: whole images where there are enough of them and their maps are large,
// else shares of one step after the other.
#include "convnet.h"

#include <cmath>
#include <cstdio>
#include <new>

#include "convnet_steps.h"
#include "rounding_up.h"
#include "scratch.h"

namespace kdnative::cpu {
namespace {

// Multiply-adds that make one more thread worth waking, and those that make a step worth sharing.
constexpr double kWorkPerThread = 1 << 22, kWorkToShare = 1 << 18;
// More tasks than threads let them end together, when one was held up.
constexpr double kWorkForTwoTasks = 1 << 24;

// Of small maps that lie in the second cache together, while the weights pass by.
constexpr int64_t kGroupImages = 4;

constexpr int64_t kPixelBlock = 24, kRowBlock = 4;  // kernels are fastest with multiples of these

// Tasks run steps [begin, end). With `whole_images` a task is an image of the span; else it is a part of the units of
// the span, or of the column tiles, of a single step.
struct Steps : Stage {
  int64_t begin, end;
  Span span;
  bool whole_images;
  int64_t unit_block, tile_block;
};

class Stages {
 public:
  Stages(const ConvnetGroup& group, Steps* stages) : group_(group), stages_(stages) {}

  int64_t count = 0;

  void whole_images(int64_t begin, int64_t end, const Span& span) {
    if (begin == end || span.count == 0) return;
    Steps& s = add(begin, end, span, span.count);
    s.whole_images = true;
  }

  void shared(int64_t begin, int64_t end, const Span& span, int64_t workers) {
    bool small = false;  // the last stage is of steps that are not worth sharing
    for (int64_t i = begin; i < end; ++i) {
      const int64_t step = group_.plan.steps[static_cast<size_t>(i)];
      const double work = group_.work(step) * static_cast<double>(span.count);
      if (work < kWorkToShare || workers == 1) {
        if (small) {
          stages_[count - 1].end = i + 1;
        } else {
          add(i, i + 1, span, 1);
        }
        small = true;
        continue;
      }
      small = false;
      const int64_t parts = workers * (work > kWorkForTwoTasks ? 2 : 1), units = group_.units(step) * span.count;
      const int64_t tiles = group_.tiles(step);
      Steps& s = add(i, i + 1, span, 1);
      if (tiles >= workers && by_tiles(step, span)) {
        s.tile_block = ceil_div(tiles, parts);
        s.tasks = ceil_div(tiles, s.tile_block);
      } else {
        const int64_t unit = group_.is_conv(step) ? kPixelBlock : kRowBlock;
        s.unit_block = ceil_div(units, parts);
        if (s.unit_block > 2 * unit) s.unit_block = round_up(s.unit_block, unit);
        s.tasks = ceil_div(units, s.unit_block);
      }
    }
  }

  void run(const Steps& s, int64_t task, int64_t worker) const {
    const Span span = s.whole_images ? Span{s.span.first + task, 1} : s.span;
    for (int64_t i = s.begin; i < s.end; ++i) {
      const int64_t step = group_.plan.steps[static_cast<size_t>(i)];
      Share share{0, group_.units(step) * span.count, 0, group_.tiles(step)};
      if (s.tile_block > 0) {
        share.tile_begin = task * s.tile_block;
        share.tile_end = std::min(share.tile_end, share.tile_begin + s.tile_block);
      } else if (s.unit_block > 0) {
        share.begin = task * s.unit_block;
        share.end = std::min(share.end, share.begin + s.unit_block);
      }
      group_.run(step, span, share, s.whole_images ? worker : 0);
    }
  }

 private:
  Steps& add(int64_t begin, int64_t end, const Span& span, int64_t tasks) {
    Steps& s = *new (&stages_[count++]) Steps;
    s.tasks = tasks;
    s.begin = begin;
    s.end = end;
    s.span = span;
    s.whole_images = false;
    s.unit_block = s.tile_block = 0;
    return s;
  }

  // Whether threads should share the weights of a step rather than its pixels.
  bool by_tiles(int64_t step, const Span& span) const {
    if (!group_.is_conv(step)) return false;
    const int64_t source = group_.node(step).inputs[0];
    const int64_t read = group_.planned(source).pixels() * group_.node(source).record->channels * span.count;
    return group_.node(step).record->weight_bytes > read;
  }

  const ConvnetGroup& group_;
  Steps* stages_;
};

const char* check(const ConvnetInputs& in, const ConvnetModel& model, const ConvnetPlan& plan) {
  thread_local char text[160];
  const int32_t channels = model.nodes[0].record->channels;
  if (in.channels != channels)
    std::snprintf(text, sizeof text, "x has %lld channels, but the network takes images of %d",
                  static_cast<long long>(in.channels), channels);
  else if (in.features != plan.features)
    std::snprintf(text, sizeof text,
                  "features is %lld, but the network returns %lld values for an image of %lld x %lld",
                  static_cast<long long>(in.features), static_cast<long long>(plan.features),
                  static_cast<long long>(in.height), static_cast<long long>(in.width));
  else
    return nullptr;
  return text;
}

}  // namespace

const char* convnet_forward(const Kernels& kernels, const Parallel& parallel, const ConvnetInputs& in, float* out) {
  thread_local ConvnetModel model;  // they keep their memory from call to call
  thread_local ConvnetPlan plan;
  if (const char* problem = read_convnet(in.packed, in.packed_bytes, &model)) return problem;
  if (const char* problem = plan.measure(model, in.height, in.width)) return problem;
  if (const char* problem = check(in, model, plan)) return problem;
  if (in.count == 0) return nullptr;

  ConvnetGroup group{kernels, model, plan, in, out};
  const auto steps = static_cast<int64_t>(plan.steps.size());
  double work = 0;
  for (const int64_t step : plan.steps) work += group.work(step);
  const int64_t workers = static_cast<int64_t>(
      std::clamp(work * static_cast<double>(in.count) / kWorkPerThread, 1.0, static_cast<double>(parallel.threads)));
  // Every thread has as many images of a group as the others.
  const int64_t group_images = std::min(std::max(kGroupImages / workers, int64_t{1}) * workers, in.count);
  if (const char* problem = plan.lay_out(model, group_images)) return problem;
  const int64_t arenas = group_images >= workers ? workers : 1;
  Steps* memory = nullptr;
  const auto carve = [&](Carver c) {
    memory = c.take<Steps>(steps * workers + steps + 1);
    group.unsound = c.take<bool>(group_images);
    group.group_maps = c.take<uint8_t>(plan.group.bytes());
    group.image_maps = c.take<uint8_t>(arenas * plan.image.bytes());
    return c.used();
  };
  carve(Carver(scratch(carve(Carver()))));

  for (group.first = 0; group.first < in.count; group.first += group.images) {
    group.images = std::min(group_images, in.count - group.first);
    std::fill(group.unsound, group.unsound + group.images, false);
    Stages stages(group, memory);
    const int64_t whole = group.images / workers * workers;
    stages.whole_images(0, plan.first_grouped_step, {0, whole});
    for (int64_t image = whole; image < group.images; ++image)
      stages.shared(0, plan.first_grouped_step, {image, 1}, workers);
    stages.shared(plan.first_grouped_step, steps, {0, group.images}, workers);
    run_team(parallel, workers, memory, stages.count,
             [&](int64_t stage, int64_t task, int64_t worker) { stages.run(memory[stage], task, worker); });
    for (int64_t image = 0; image < group.images; ++image)
      if (group.unsound[image]) {
        float* const values = out + (group.first + image) * plan.features;
        std::fill(values, values + plan.features, NAN);
      }
  }
  return nullptr;
}

}  // namespace kdnative::cpu
