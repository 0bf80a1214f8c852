// Counters that are 0 whenever a kernel starts, and that it leaves 0: blocks of a split product count themselves there.
// Without them each such launch would be two, one to write zeros.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>

#include "driver.h"

namespace kdnative::cuda {

// Of one GPU. Two launches share counters only if one waits for the other: those of a stream do, and those of a CUDA
// graph, which is replayed with the counters that it was recorded with, have theirs for themselves.
class Counters {
 public:
  // This many for one launch on a stream; nullptr if there are none left. With the context current.
  uint32_t* take(int64_t count, Stream stream);

 private:
  static constexpr int64_t kOfStream = 16384, kStreams = 32, kOfGraphs = 1 << 20;

  bool allocate();  // memory of the device, at the first call that finds some

  std::mutex mutex_;
  uint32_t* memory_ = nullptr;         // those of streams, then those of graphs
  std::map<Stream, int64_t> streams_;  // the number of each
  int64_t graphs_ = 0;                 // that recorded launches have
};

}  // namespace kdnative::cuda
