// Global memory of an emulated GPU: buffers that a kernel may touch, of exact sizes, with a record of who touched what.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "machine.h"

namespace gpu::emulator {

struct Region {
  std::string name;
  uint64_t begin, end;
  bool writable;
  std::vector<Byte> bytes;  // of writable memory
};

// Buffers lie on 256 bytes as cudaMalloc's do. Their sizes are exact: a byte too far is an error here, and for
// AddressSanitizer where a kernel escapes the dialect.
class DeviceMemory {
 public:
  // A copy of `values` that kernels only read.
  template <typename T>
  const T* input(const char* name, const std::vector<T>& values) {
    return place(name, values.data(), values.size(), false, true);
  }
  // A copy of `values` that kernels read and write.
  template <typename T>
  T* in_out(const char* name, const std::vector<T>& values) {
    return place(name, values.data(), values.size(), true, true);
  }
  // Memory that must be written before it is read; it starts as 0xcd.
  template <typename T>
  T* output(const char* name, size_t count) {
    return place<T>(name, nullptr, count, true, false);
  }
  // Memory that somebody else owns.
  void allow(const std::string& name, const void* at, size_t bytes, bool writable, bool written = true) {
    Region r{name, reinterpret_cast<uint64_t>(at), reinterpret_cast<uint64_t>(at) + bytes, writable, {}};
    if (writable) {
      r.bytes.resize(bytes);
      for (Byte& b : r.bytes) b.written = written;
    }
    regions_[r.begin] = std::move(r);
  }
  void forget(const void* at) { regions_.erase(reinterpret_cast<uint64_t>(at)); }

  // The buffer that holds all these bytes, or nullptr.
  Region* find(uint64_t at, size_t size) {
    Region* r = below(at);
    if ((r == nullptr || at >= r->end) && owner != nullptr && owner(at, this)) r = below(at);
    return r != nullptr && at + size <= r->end ? r : nullptr;
  }

  // Allows the buffer of an address that is in none, and returns true if there is one: for memory that is found when it
  // is touched.
  bool (*owner)(uint64_t at, DeviceMemory* memory) = nullptr;

 private:
  Region* below(uint64_t at) {
    const auto next = regions_.upper_bound(at);
    return next == regions_.begin() ? nullptr : &std::prev(next)->second;
  }
  template <typename T>
  T* place(const char* name, const T* values, size_t count, bool writable, bool written) {
    void* at = nullptr;
    if (posix_memalign(&at, 256, count * sizeof(T)) != 0) throw std::bad_alloc();
    owned_.emplace_back(at, &std::free);
    if (values != nullptr && count > 0) std::memcpy(at, values, count * sizeof(T));
    if (values == nullptr) std::memset(at, 0xcd, count * sizeof(T));
    allow(name, at, count * sizeof(T), writable, written);
    return static_cast<T*>(at);
  }

  std::vector<std::unique_ptr<void, decltype(&std::free)>> owned_;
  std::map<uint64_t, Region> regions_;  // by begin
};

}  // namespace gpu::emulator
