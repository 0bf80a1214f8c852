// Runs a kernel: every block of a grid one after the other, its threads as fibers.
#pragma once

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <utility>

#include "device_memory.h"
#include "machine.h"

namespace gpu::emulator {

struct Grid {
  int x = 1, y = 1, z = 1;
  int threads = 32;
  size_t shared_bytes = 0;
};

inline void run_thread() {
  Machine& m = *machine;
  begin(m.runner);
  Thread& t = *m.now;
  try {
    m.body();
    t.waits_for = "the end";
    const bool under_way =
        !t.open.empty() || std::any_of(t.groups.begin(), t.groups.end(), [](const auto& g) { return !g.empty(); });
    if (under_way) fail("a thread ends with copies under way");
  } catch (...) {
    m.failure = std::current_exception();
  }
  t.state = State::kDone;
  ++m.done;
  ++m.warps[t.warp].done;
  leave(m.runner, t.fiber, true);
}

[[noreturn]] inline void report_deadlock() {
  Machine& m = *machine;
  m.now = nullptr;
  std::string what = "deadlock: " + std::to_string(m.at_barrier) + " of " + std::to_string(m.threads.size()) +
                     " threads wait at bar.sync, " + std::to_string(m.done) + " have ended";
  for (const Thread& t : m.threads)
    if (t.state == State::kAtWarp || t.state == State::kAtBlock)
      fail(what + "; thread " + std::to_string(t.id) + " waits at " + t.waits_for, &t.where);
  fail(what);
}

inline void start_block(Machine& m, const Grid& grid) {
  ++m.block;
  m.at_barrier = m.done = 0;
  m.barrier = 1;
  m.acquired.clear();
  m.shared.assign(grid.shared_bytes, 0xcd);
  m.bytes.assign(m.options.check ? grid.shared_bytes : 0, Byte{});
  m.warps.assign(grid.threads / 32, Warp{});
  m.threads.clear();
  m.threads.resize(grid.threads);
  for (int i = 0; i < grid.threads; ++i) {
    Thread& t = m.threads[i];
    t.id = i;
    t.lane = i % 32;
    t.warp = i / 32;
    t.fiber.stack = fiber_stack(i);
    make_context(t.fiber.context, t.fiber.stack, run_thread);
  }
}

// A warp runs until all its lanes wait or have ended, then another has its turn.
inline void run_block(Machine& m, std::minstd_rand& random) {
  const int warps = static_cast<int>(m.warps.size()), threads = static_cast<int>(m.threads.size());
  while (m.done < threads) {
    bool moved = false;
    const int first_warp = m.options.seed ? static_cast<int>(random() % warps) : 0;
    const int first_lane = m.options.seed ? static_cast<int>(random() % 32) : 0;
    for (int i = 0; i < warps && !(moved && m.options.seed); ++i) {
      const int warp = (first_warp + i) % warps;
      for (int l = 0; l < 32; ++l) {
        Thread& t = m.threads[warp * 32 + (first_lane + l) % 32];
        if (t.state != State::kReady) continue;
        m.now = &t;
        moved = true;
        enter(m.runner, t.fiber);
        if (m.failure) std::rethrow_exception(std::exchange(m.failure, nullptr));
      }
    }
    if (!moved) report_deadlock();
  }
  if (m.options.check)
    for (int w = 0; w < warps; ++w) settle_accesses(w);
  m.counters.end_block();
}

// Runs kernel() in every thread of the grid. What it costs is added to m.counters.
//
// Raises: Error when the kernel does what it must not, or the grid is one that no GPU takes.
inline void launch(Machine& m, const std::string& name, const Grid& grid, std::function<void()> kernel) {
  Machine* const before = std::exchange(machine, &m);
  struct Restore {
    Machine* before;
    ~Restore() { machine = before; }
  } restore{before};
  m.kernel = name;
  m.now = nullptr;
  m.failure = nullptr;
  if (grid.threads < 32 || grid.threads > 1024 || grid.threads % 32 != 0)
    throw Error(name + ": blocks of " + std::to_string(grid.threads) + " threads; give a multiple of 32 up to 1024");
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535)
    throw Error(name + ": a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
                std::to_string(grid.z) + "; x is at least 1, y and z are 1 ... 65535");
  m.body = std::move(kernel);
  m.grid_x = grid.x;
  m.grid_y = grid.y;
  m.grid_z = grid.z;
  m.first_block = m.block + 1;
  m.released.clear();
  std::minstd_rand random(m.options.seed);
  std::vector<int64_t> blocks(int64_t{grid.x} * grid.y * grid.z);
  Launch& counted = m.counters.launches[name];
  counted = {counted.blocks + blocks.size(), grid.threads, grid.shared_bytes};
  std::iota(blocks.begin(), blocks.end(), 0);
  if (m.options.seed) std::shuffle(blocks.begin(), blocks.end(), random);
  for (const int64_t i : blocks) {
    m.block_x = static_cast<int>(i % grid.x);
    m.block_y = static_cast<int>(i / grid.x % grid.y);
    m.block_z = static_cast<int>(i / grid.x / grid.y);
    start_block(m, grid);
    run_block(m, random);
  }
}

}  // namespace gpu::emulator
