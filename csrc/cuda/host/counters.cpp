#include "counters.h"

namespace kdnative::cuda {

void Counters::allocate() {
  const Driver& d = driver();
  constexpr size_t count = kStreams * kOfStream + kOfGraphs;
  unsigned long long address = 0;
  if (d.allocate(&address, count * sizeof(uint32_t)) != 0) return;  // a full GPU has none to take
  d.check(d.fill_now(address, 0, count), "to fill memory");
  d.check(d.synchronize(), "to wait");  // other streams don't
  memory_ = reinterpret_cast<uint32_t*>(address);
}

uint32_t* Counters::take(int64_t count, Stream stream) {
  int capturing = 0;
  driver().check(driver().is_capturing(stream, &capturing), "to say whether a graph is recorded");
  const std::lock_guard<std::mutex> lock(mutex_);
  if (memory_ == nullptr) return nullptr;
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
