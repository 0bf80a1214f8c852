#include "counters.h"

namespace kdnative::cuda {

// A full GPU has none to take, and may have some at the next call.
bool Counters::allocate() {
  if (memory_ != nullptr) return true;
  const Driver& d = driver();
  const BesideGraphs beside;
  constexpr size_t count = kStreams * kOfStream + kOfGraphs;
  unsigned long long address = 0;
  const Result allocated = d.allocate(&address, count * sizeof(uint32_t));
  if (allocated == kOutOfMemory) return false;
  d.check(allocated, "memory for counters");
  // On a stream of its own, which waits for no other, so that it may be waited for while a graph is recorded.
  Stream stream = nullptr;
  Result result = d.stream_create(&stream, kStreamNonBlocking);
  if (result == 0) {
    result = d.fill(reinterpret_cast<void*>(address), 0, count, stream);
    if (result == 0) result = d.stream_synchronize(stream);
    d.stream_destroy(stream);
  }
  if (result != 0) d.release(address);
  if (result == kOutOfMemory) return false;
  d.check(result, "to fill counters with zeros");
  memory_ = reinterpret_cast<uint32_t*>(address);
  return true;
}

uint32_t* Counters::take(int64_t count, Stream stream) {
  int capturing = 0;
  driver().check(driver().is_capturing(stream, &capturing), "to say whether a graph is recorded");
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!allocate()) return nullptr;
  if (capturing != 0) {
    if (graphs_ + count > kOfGraphs) return nullptr;
    graphs_ += count;
    return memory_ + kStreams * kOfStream + graphs_ - count;
  }
  if (count > kOfStream) return nullptr;
  const auto found = streams_.find(stream);
  if (found != streams_.end()) return memory_ + found->second * kOfStream;
  const auto number = static_cast<int64_t>(streams_.size());
  if (number == kStreams) return nullptr;
  streams_[stream] = number;
  return memory_ + number * kOfStream;
}

}  // namespace kdnative::cuda
