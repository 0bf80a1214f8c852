// Which memory of the host is that of the emulated GPU: what posix_memalign gave, by which torch takes the memory of
// tensors. It stands before the C library's, which the library of the fake driver must be loaded for in time.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>

#include "emulator/device_memory.h"

extern "C" {
void* __libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void* at);
}

namespace fake {

// By begin. Neither is ever destroyed: memory is freed until the end of the process.
inline std::map<uint64_t, size_t>& blocks() {
  static auto* all = new std::map<uint64_t, size_t>;
  return *all;
}
inline std::mutex& blocks_mutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

// For DeviceMemory::owner.
inline bool allow_tensor(uint64_t at, gpu::emulator::DeviceMemory* memory) {
  uint64_t begin = 0;
  size_t bytes = 0;
  {
    const std::lock_guard<std::mutex> lock(blocks_mutex());
    const auto next = blocks().upper_bound(at);
    if (next == blocks().begin()) return false;
    begin = std::prev(next)->first, bytes = std::prev(next)->second;
  }
  if (at >= begin + bytes) return false;
  memory->allow("a tensor", reinterpret_cast<void*>(begin), bytes, true);
  return true;
}

}  // namespace fake

extern "C" __attribute__((visibility("default"))) int posix_memalign(void** at, size_t alignment, size_t bytes) {
  *at = __libc_memalign(alignment, bytes);
  if (*at == nullptr) return ENOMEM;
  const std::lock_guard<std::mutex> lock(fake::blocks_mutex());
  fake::blocks()[reinterpret_cast<uint64_t>(*at)] = bytes;
  return 0;
}

// Only blocks that begin on 64 bytes can be those of posix_memalign; the nodes of the map don't, or are none of them.
extern "C" __attribute__((visibility("default"))) void free(void* at) {
  thread_local bool forgetting = false;
  if (reinterpret_cast<uint64_t>(at) % 64 == 0 && at != nullptr && !forgetting) {
    forgetting = true;
    {
      const std::lock_guard<std::mutex> lock(fake::blocks_mutex());
      fake::blocks().erase(reinterpret_cast<uint64_t>(at));
    }
    forgetting = false;
  }
  __libc_free(at);
}
