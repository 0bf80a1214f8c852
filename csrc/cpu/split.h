// How the work of a call is split: a list of stages, run by a team of threads that enters once. A stage is a number of
// tasks that do not depend on one another; threads take tasks from a shared counter and go on when every task of the
// stage is done. So a call costs one fork and join, however many stages it has, and it completes with any number of
// threads, even when the pool runs the team one by one.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace kdnative::cpu {

// How the caller's thread pool runs n tasks: run calls fn on disjoint ranges that cover [0, n) and returns when all are
// done. It may use fewer threads than asked for, or one.
struct Parallel {
  void (*run)(int64_t n, void (*fn)(int64_t begin, int64_t end, void* ctx), void* ctx);
  int64_t threads;
};

struct alignas(64) Stage {
  int64_t tasks = 0;
  std::atomic<int64_t> claimed{0}, done{0};
};

inline void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// One thread's part of the stages.
template <typename AnyStage, typename Task>
void take_part(AnyStage* stages, int64_t count, int64_t worker, const Task& task) {
  for (int64_t s = 0; s < count; ++s) {
    Stage& stage = stages[s];
    for (;;) {
      const int64_t index = stage.claimed.fetch_add(1, std::memory_order_relaxed);
      if (index >= stage.tasks) break;
      task(s, index, worker);
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

// task(stage, index, worker) for every task of every stage, by a team of `workers` threads, counted from 0: no two
// tasks run with one worker's number at the same time. Tasks must not throw. The stages are new ones.
template <typename AnyStage, typename Task>
void run_team(const Parallel& pool, int64_t workers, AnyStage* stages, int64_t count, const Task& task) {
  if (workers == 1) return take_part(stages, count, 0, task);
  struct Team {
    AnyStage* stages;
    int64_t count;
    const Task& task;
  } team{stages, count, task};
  pool.run(
      workers,
      [](int64_t begin, int64_t end, void* ctx) {
        const Team& t = *static_cast<const Team*>(ctx);
        for (int64_t worker = begin; worker < end; ++worker) take_part(t.stages, t.count, worker, t.task);
      },
      &team);
}

}  // namespace kdnative::cpu
