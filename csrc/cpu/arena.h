// Places in one piece of memory for blocks that are needed one after the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace kdnative::cpu {

class Arena {
 public:
  int64_t bytes() const { return bytes_; }  // that all places together take

  void clear() {
    live_.clear();
    bytes_ = 0;
  }

  // The lowest place for `bytes` that are needed from step `first` to step `last`. Calls come in the order of `first`.
  int64_t take(int64_t bytes, int64_t first, int64_t last) {
    std::erase_if(live_, [&](const Block& b) { return b.last < first; });
    int64_t place = 0;
    auto next = live_.begin();
    for (; next != live_.end() && next->begin - place < bytes; ++next) place = std::max(place, next->end);
    live_.insert(next, {place, place + bytes, last});
    bytes_ = std::max(bytes_, place + bytes);
    return place;
  }

 private:
  struct Block {
    int64_t begin, end, last;
  };
  std::vector<Block> live_;  // by place
  int64_t bytes_ = 0;
};

}  // namespace kdnative::cpu
