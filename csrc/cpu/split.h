// A list of stages run by a team of threads that enters once. A stage is a grid of tasks that do not depend on one
// another; threads take tasks from a shared counter and go on when every task of the stage is done. So a forward pass
// costs one fork and join, and it completes with any number of threads, even when the pool runs the team one by one.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace kdnative::cpu {

struct alignas(64) Stage {
  int64_t begin, end;             // steps of the program that each task runs
  int64_t row_block, row_blocks;  // task t: row block t % row_blocks,
  int64_t part_block, parts;      // and part_block columns (or heads) of parts, from t / row_blocks * part_block
  int64_t tasks;
  std::atomic<int64_t> claimed{0}, done{0};
};

inline void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// One thread's part: task(stage, index) for every task it can get.
template <typename Task>
void run_stages(Stage* stages, int64_t count, const Task& task) {
  for (int64_t s = 0; s < count; ++s) {
    Stage& stage = stages[s];
    for (;;) {
      const int64_t index = stage.claimed.fetch_add(1, std::memory_order_relaxed);
      if (index >= stage.tasks) break;
      task(stage, index);
      stage.done.fetch_add(1, std::memory_order_release);
    }
    // A thread that holds a task may have lost its core, so after a while let others run.
    for (int64_t spins = 0; stage.done.load(std::memory_order_acquire) < stage.tasks; ++spins) {
      if (spins < 256) {
        spin_pause();
      } else {
        std::this_thread::yield();
      }
    }
  }
}

}  // namespace kdnative::cpu
