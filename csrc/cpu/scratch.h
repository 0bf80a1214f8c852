// Working memory of the calling thread: grows to the largest request and stays, so steady state allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kdnative {

// 64-byte aligned, valid until the next call on the same thread. Contents are undefined.
void* scratch(size_t bytes);

// Hands out consecutive 64-byte aligned pieces: first pass counts, second pass places.
class Carver {
 public:
  explicit Carver(void* base = nullptr) : base_(static_cast<uint8_t*>(base)) {}
  template <typename T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return p;
  }
  size_t used() const { return used_; }

 private:
  uint8_t* base_;
  size_t used_ = 0;
};

}  // namespace kdnative
