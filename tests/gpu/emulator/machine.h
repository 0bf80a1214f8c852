// The state of an emulated launch: threads, warps, shared memory, and instructions that a whole warp or block does
// together.
#pragma once

#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "counters.h"
#include "fibers.h"

namespace gpu::emulator {

class DeviceMemory;

// What no GPU would report: the message names kernel, block, thread, instruction and the line of the kernel.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The place of an instruction in the kernel's source tells it from others: a compiler may duplicate or merge code, so
// that return addresses would not.
using Where = std::source_location;
inline bool same_place(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

struct Options {
  bool eager = false;  // asynchronous copies happen at once, or else as late as a wait allows
  bool check = true;   // races, unwritten bytes, counters: without them it is four times as fast
  unsigned seed = 0;   // 0: blocks, warps and lanes in order; else a random schedule
};

// Who touched a byte, and when.
struct Stamp {
  int32_t thread = -1;  // -1: nobody, -2: several of the warp
  int32_t warp = -1;    // -2: several
  uint32_t barrier = 0, sync = 0;
  uint64_t block = 0, time = 0;
};
struct Byte {
  Stamp write, read;
  int32_t flight = -1;  // the thread whose copy to here is under way
  bool written = false, atomic = false;
};

struct Copy {
  uint32_t to;
  const uint8_t* from;
  int bytes, size;
};
struct Access {
  Where where;
  const char* name;
  uint64_t at;
  uint16_t size;
  bool global;
};

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Thread {
  Fiber fiber;
  int id = 0, lane = 0, warp = 0;
  State state = State::kReady;
  const char* waits_for = "";  // the collective instruction
  Where where;
  void* operands = nullptr;
  uint64_t collectives = 0;
  std::vector<Copy> open;                 // copies since the last commit
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Access> accesses;           // since the last instruction of the whole warp
  uint64_t fence_time = 0;                // of the last fence_global
  uint32_t fence_barrier = 0, fence_sync = 0;
  std::vector<const void*> words;  // that it did atomics on since that fence
};
struct Warp {
  int waiting = 0, done = 0;
  uint32_t sync = 1;  // how often sync_warp has passed
};

// That a thread handed on what it and, by a barrier before, others of its block wrote; or that it saw what was handed
// on.
struct Handover {
  int32_t thread, warp;
  uint32_t barrier, sync;
  uint64_t time;
  const void* word;  // of the atomic
};

struct Machine {
  std::string kernel;
  Options options;
  DeviceMemory* memory = nullptr;  // nullptr: global addresses are not checked
  int grid_x = 1, grid_y = 1, grid_z = 1, block_x = 0, block_y = 0, block_z = 0;
  uint64_t block = 0, first_block = 0;  // numbers of blocks, over all launches; of this launch's first one
  int at_barrier = 0, done = 0;
  uint32_t barrier = 1;  // how often sync_threads has passed
  uint64_t clock = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<uint8_t> shared;
  std::vector<Byte> bytes;                             // of shared
  std::map<uint64_t, std::vector<Handover>> released;  // by block
  std::vector<Handover> acquired;                      // by this block
  Runner runner;
  Thread* now = nullptr;
  std::function<void()> body;
  std::exception_ptr failure;
  Counters counters;
};
inline thread_local Machine* machine = nullptr;

[[noreturn]] inline void fail(const std::string& what, const Where* where = nullptr) {
  const Machine& m = *machine;
  std::string text = m.kernel + ": " + what + " (block " + std::to_string(m.block_x) + "," + std::to_string(m.block_y) +
                     "," + std::to_string(m.block_z);
  if (m.now != nullptr) text += ", thread " + std::to_string(m.now->id);
  text += ")";
  if (where != nullptr) {
    const std::string file = where->file_name();
    text += " at " + file.substr(file.rfind('/') + 1) + ":" + std::to_string(where->line());
  }
  throw Error(text);
}

inline void wait_for_others(State state, const char* name, const Where& where) {
  Thread& t = *machine->now;
  t.state = state;
  t.waits_for = name;
  t.where = where;
  leave(machine->runner, t.fiber, false);
}

// ---- what accesses cost

inline void record(const char* name, bool global, uint64_t at, int size, const Where& where) {
  if (!machine->options.check) return;
  machine->now->accesses.push_back({where, name, at, static_cast<uint16_t>(size), global});
}

inline void count_request(const Access& a, const Request& r) {
  if (a.global) {
    machine->counters.add_global(a.name, r);
  } else {
    machine->counters.add_shared(a.name, r);
  }
}

// Joins what the lanes of a warp did to requests: the nth access of each lane at one place is one instruction.
inline void settle_accesses(int warp) {
  Thread* lanes = &machine->threads[warp * 32];
  const auto same = [](const Access& a, const Access& b) { return a.name == b.name && same_place(a.where, b.where); };
  bool alike = true;
  for (int l = 1; l < 32 && alike; ++l)
    alike = std::equal(lanes[0].accesses.begin(), lanes[0].accesses.end(), lanes[l].accesses.begin(),
                       lanes[l].accesses.end(), same);
  if (alike) {
    for (size_t i = 0; i < lanes[0].accesses.size(); ++i) {
      Request r;
      for (int l = 0; l < 32; ++l) r.at[l] = lanes[l].accesses[i].at, r.size[l] = lanes[l].accesses[i].size;
      count_request(lanes[0].accesses[i], r);
    }
  } else {
    using Place = std::tuple<const char*, std::string, uint32_t, uint32_t>;
    std::map<Place, std::vector<std::pair<Access, Request>>> places;
    for (int l = 0; l < 32; ++l) {
      std::map<Place, size_t> passed;
      for (const Access& a : lanes[l].accesses) {
        const Place place{a.name, a.where.file_name(), a.where.line(), a.where.column()};
        auto& requests = places[place];
        const size_t nth = passed[place]++;
        if (nth == requests.size()) requests.push_back({a, Request{}});
        requests[nth].second.at[l] = a.at;
        requests[nth].second.size[l] = a.size;
      }
    }
    for (const auto& [place, requests] : places)
      for (const auto& [access, request] : requests) count_request(access, request);
  }
  for (int l = 0; l < 32; ++l) lanes[l].accesses.clear();
}

// ---- instructions of a whole warp or block

// Runs `all` with every lane's operands once all 32 lanes are at this instruction.
template <typename F>
void collective(const char* name, void* operands, const Where& where, F all) {
  Machine& m = *machine;
  Thread& t = *m.now;
  Warp& w = m.warps[t.warp];
  if (w.done > 0) fail(std::string(name) + ": a lane of this warp has ended before", &where);
  t.operands = operands;
  ++t.collectives;
  if (++w.waiting < 32) {
    wait_for_others(State::kAtWarp, name, where);
    return;
  }
  t.waits_for = name;
  t.where = where;
  void* lanes[32];
  for (int l = 0; l < 32; ++l) {
    Thread& other = m.threads[t.warp * 32 + l];
    if (!same_place(other.where, where) || std::strcmp(other.waits_for, name) != 0 ||
        other.collectives != t.collectives)
      fail(std::string(name) + ": lanes have parted, lane " + std::to_string(l) + " is at " + other.waits_for +
               " of line " + std::to_string(other.where.line()),
           &where);
    lanes[l] = other.operands;
  }
  for (int l = 0; l < 32; ++l) m.threads[t.warp * 32 + l].state = State::kReady;
  w.waiting = 0;
  if (m.options.check) {
    settle_accesses(t.warp);
    ++m.counters.instructions[name];
  }
  all(lanes);
}

inline void block_barrier(const Where& where) {
  Machine& m = *machine;
  Thread& t = *m.now;
  if (m.done > 0) fail("bar.sync: threads of the block have ended before", &where);
  ++t.collectives;
  t.where = where;
  t.waits_for = "bar.sync";
  if (++m.at_barrier < static_cast<int>(m.threads.size())) {
    wait_for_others(State::kAtBlock, "bar.sync", where);
    return;
  }
  for (Thread& other : m.threads) {
    const Thread& first = m.threads[other.warp * 32];
    if (!same_place(other.where, first.where) || other.collectives != first.collectives)
      fail("bar.sync: lanes of warp " + std::to_string(other.warp) + " have parted", &where);
  }
  for (Thread& other : m.threads) other.state = State::kReady;
  m.at_barrier = 0;
  ++m.barrier;
  if (!m.options.check) return;
  for (size_t w = 0; w < m.warps.size(); ++w) settle_accesses(static_cast<int>(w));
  m.counters.instructions["bar.sync"] += m.warps.size();
}

}  // namespace gpu::emulator
