// Asynchronous copies from global to shared memory. Emulated half of csrc/cuda/gpu/copy.h.
//
// A copy happens at once (eager) or when it is waited for (lazy). Either way nobody may touch its bytes before this
// thread has waited for it, and others before a barrier after that.
#pragma once

#include <cstring>

#include "shadow.h"

namespace gpu {

namespace emulator {

inline void carry_out(const Copy& c) {
  uint8_t* to = &machine->shared[c.to];
  std::memset(to, 0, c.size);
  if (c.bytes > 0) std::memcpy(to, c.from, c.bytes);
}

inline void start_copy(const char* name, const char* read_name, uint32_t to, const void* from, int bytes, int size,
                       const Where& where) {
  Machine& m = *machine;
  if (bytes < 0 || bytes > size)
    fail(std::string(name) + ": source size " + std::to_string(bytes) + " is outside 0 ... " + std::to_string(size),
         &where);
  touch_global(from, size, bytes, Touch::kRead, read_name, where);
  touch_shared(to, size, Touch::kWrite, name, where);
  record(name, false, to, size, where);
  if (m.options.check)
    for (uint32_t i = to; i < to + size; ++i) m.bytes[i].flight = m.now->id;
  const Copy c{to, static_cast<const uint8_t*>(from), bytes, size};
  if (m.options.eager) carry_out(c);
  m.now->open.push_back(c);
}

inline void finish_copies(size_t pending) {
  Machine& m = *machine;
  Thread& t = *m.now;
  while (t.groups.size() > pending) {
    for (const Copy& c : t.groups.front()) {
      if (!m.options.eager) carry_out(c);
      if (!m.options.check) continue;
      for (uint32_t i = c.to; i < c.to + c.size; ++i) {
        m.bytes[i].flight = -1;
        m.bytes[i].write = Stamp{t.id, t.warp, m.barrier, m.warps[t.warp].sync, m.block, ++m.clock};
      }
    }
    t.groups.erase(t.groups.begin());
  }
}

}  // namespace emulator

inline void copy_async16(uint32_t to, const void* from, int bytes = 16,
                         emulator::Where where = emulator::Where::current()) {
  emulator::start_copy("cp.async.cg 16", "cp.async.cg 16 from global", to, from, bytes, 16, where);
}
inline void copy_commit() {
  emulator::Thread& t = *emulator::machine->now;
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}
template <int kPending>
void copy_wait() {
  emulator::finish_copies(kPending);
}

}  // namespace gpu
