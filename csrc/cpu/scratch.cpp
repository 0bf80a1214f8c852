#include "scratch.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace kdnative {
namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

}  // namespace

void* scratch(size_t bytes) {
  thread_local std::unique_ptr<void, Free> buffer;
  thread_local size_t capacity = 0;
  if (bytes > capacity) {
    const size_t wanted = (bytes + bytes / 4 + 4095) / 4096 * 4096;
    buffer.reset();
    capacity = 0;
    buffer.reset(std::aligned_alloc(64, wanted));
    if (!buffer) throw std::bad_alloc();
    capacity = wanted;
  }
  return buffer.get();
}

}  // namespace kdnative
