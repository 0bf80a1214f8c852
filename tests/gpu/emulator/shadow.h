// Checks of every access: bounds, alignment, bytes that nobody wrote, copies under way, and races.
//
// Two accesses of a byte, one of them a write, are ordered when the same thread does both, when a barrier of the block
// or sync_warp lies between them, or, between blocks, when a thread that comes after the first access did fence_global
// and then an atomic, and one that comes before the second an atomic on the same word and then fence_global.
#pragma once

#include <string>

#include "device_memory.h"
#include "machine.h"

namespace gpu::emulator {

enum class Touch { kRead, kReadOnly, kWrite, kAtomic };  // kReadOnly: by the path that may return stale bytes

// Whether a stamp of this thread's block comes before what thread t does now.
inline bool earlier_in_block(const Stamp& s, const Thread& t) {
  const Machine& m = *machine;
  if (s.thread == t.id || s.barrier != m.barrier) return true;
  return s.warp == t.warp && s.sync < m.warps[t.warp].sync;
}
// Whether thread t comes after an atomic on this word, and a fence, of its block.
inline bool saw_handover(const Thread& t, const void* word) {
  const Machine& m = *machine;
  for (const Handover& h : m.acquired)
    if (h.word == word &&
        (h.thread == t.id || h.barrier < m.barrier || (h.warp == t.warp && h.sync < m.warps[t.warp].sync)))
      return true;
  return false;
}
// Whether what another block did was handed on by a word that thread t took it from.
inline bool handed_on(const Stamp& s, const Thread& t) {
  const Machine& m = *machine;
  const auto found = m.released.find(s.block);
  if (found == m.released.end()) return false;
  for (const Handover& h : found->second) {
    const bool before =
        (h.thread == s.thread && s.time < h.time) || s.barrier < h.barrier || (h.warp == s.warp && s.sync < h.sync);
    if (before && saw_handover(t, h.word)) return true;
  }
  return false;
}
inline bool ordered(const Stamp& s, const Thread& t) {
  const Machine& m = *machine;
  if (s.thread == -1 || s.block < m.first_block) return true;
  if (s.block == m.block) return earlier_in_block(s, t);
  return handed_on(s, t);
}

inline void touch_byte(Byte& b, Touch touch, const char* name, const char* space, uint64_t offset, const Where& where) {
  Machine& m = *machine;
  const Thread& t = *m.now;
  const auto bad = [&](const std::string& what) {
    fail(std::string(name) + ": " + what + ", byte " + std::to_string(offset) + " of " + space, &where);
  };
  const auto by = [&m](const Stamp& s) {
    std::string who = s.thread >= 0 ? "thread " + std::to_string(s.thread) : "several threads";
    return s.block == m.block
               ? who
               : who +
                     " of another block (that one hands bytes on by a barrier, then fence_global and an "
                     "atomic of one thread; this one takes them by an atomic, fence_global, then a barrier)";
  };
  if (b.flight >= 0) bad("touches bytes of a copy under way");
  const bool both_atomic = touch == Touch::kAtomic && b.atomic;
  if (!both_atomic && !ordered(b.write, t)) bad("race with the write of " + by(b.write));
  const Stamp now{t.id, t.warp, m.barrier, m.warps[t.warp].sync, m.block, m.clock};
  if (touch == Touch::kReadOnly && b.write.thread != -1 && b.write.block >= m.first_block)
    bad("the read-only path, of bytes that this launch writes");
  if (touch != Touch::kWrite && !b.written) bad("reads a byte that nobody wrote");
  if (touch == Touch::kWrite || touch == Touch::kAtomic) {
    if (!ordered(b.read, t)) bad("race with the read of " + by(b.read));
    b.write = now;
    b.written = true;
    b.atomic = touch == Touch::kAtomic;
    b.read = Stamp{};
    return;
  }
  // A read that comes before this one need not be remembered: what comes after this one comes after both. One by
  // another block that doesn't is worse than ours.
  const Stamp before = b.read;
  const bool in_order = ordered(before, t);
  if (!in_order && before.block != m.block) return;
  b.read = now;
  if (in_order) return;
  b.read.thread = -2;
  if (before.warp != t.warp) b.read.warp = -2;
}

// `size` bytes of shared memory.
inline void touch_shared(uint32_t at, int size, Touch touch, const char* name, const Where& where) {
  Machine& m = *machine;
  if (at % size != 0)
    fail(std::string(name) + ": misaligned shared address, offset " + std::to_string(at) + " for " +
             std::to_string(size) + " bytes",
         &where);
  if (uint64_t{at} + size > m.shared.size())
    fail(std::string(name) + ": outside shared memory, offset " + std::to_string(at) + " of " +
             std::to_string(m.shared.size()) + " bytes",
         &where);
  if (!m.options.check) return;
  ++m.clock;
  for (uint32_t i = at; i < at + size; ++i) touch_byte(m.bytes[i], touch, name, "shared memory", i, where);
}

// `size` bytes of global memory of which an instruction of `width` bytes, aligned to as many, touches the first.
inline void touch_global(const void* pointer, int width, int size, Touch touch, const char* name, const Where& where) {
  Machine& m = *machine;
  const uint64_t at = reinterpret_cast<uint64_t>(pointer);
  if (at % width != 0)
    fail(std::string(name) + ": misaligned global address for " + std::to_string(width) + " bytes", &where);
  record(name, true, at, size, where);
  if (!m.options.check || m.memory == nullptr || size == 0) return;
  Region* r = m.memory->find(at, size);
  if (r == nullptr) {
    const Region* near = m.memory->find(at, 0);
    fail(std::string(name) + ": outside every buffer" +
             (near == nullptr ? std::string()
                              : ", byte " + std::to_string(at - near->begin) + " of " + near->name + " with " +
                                    std::to_string(near->end - near->begin)),
         &where);
  }
  const bool writes = touch == Touch::kWrite || touch == Touch::kAtomic;
  if (!r->writable) {
    if (writes) fail(std::string(name) + ": writes " + r->name + ", which is only read", &where);
    return;
  }
  ++m.clock;
  for (uint64_t i = at - r->begin; i < at - r->begin + size; ++i)
    touch_byte(r->bytes[i], touch, name, r->name.c_str(), i, where);
}

// What this thread wrote before its last fence is handed on by an atomic; an atomic and a fence after it see what
// others handed on.
inline void note_atomic(const void* word) {
  Machine& m = *machine;
  Thread& t = *m.now;
  m.released[m.block].push_back({t.id, t.warp, t.fence_barrier, t.fence_sync, t.fence_time, word});
  t.words.push_back(word);
}
inline void note_fence() {
  Machine& m = *machine;
  Thread& t = *m.now;
  t.fence_time = ++m.clock;
  t.fence_barrier = m.barrier;
  t.fence_sync = m.warps[t.warp].sync;
  for (const void* word : t.words) m.acquired.push_back({t.id, t.warp, m.barrier, t.fence_sync, m.clock, word});
  t.words.clear();
}

}  // namespace gpu::emulator
