#include "roofline.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "dispatch.h"

namespace kdnative::cpu {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// A ceiling is what the core reaches when nothing else disturbs it: the best of many short bursts. `burst(rounds)`
// returns the work done, in any unit; the result is in that unit per second.
template <typename Work>
double best_rate(Work&& burst, double seconds) {
  constexpr double kBurst = 1e-3;  // long against the clock's resolution, short against a scheduler's time slice
  int64_t rounds = 1;
  while (true) {
    const auto start = Clock::now();
    burst(rounds);
    if (seconds_since(start) >= kBurst) break;
    rounds *= 2;
  }
  double best = 0;
  const auto begin = Clock::now();
  do {
    const auto start = Clock::now();
    const auto work = static_cast<double>(burst(rounds));
    best = std::max(best, work / seconds_since(start));
  } while (seconds_since(begin) < seconds);
  return best;
}

uint64_t read_all_baseline(const uint8_t* p, size_t bytes) {
  uint64_t sum[8] = {};
  for (size_t i = 0; i < bytes; i += 64)
    for (size_t lane = 0; lane < 8; ++lane) {
      uint64_t word;
      std::memcpy(&word, p + i + 8 * lane, 8);
      sum[lane] ^= word;
    }
  return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

}  // namespace

double peak_int8_ops(const char* isa, double seconds) {
  const std::vector<std::string> possible = available_isas();
  if (std::find(possible.begin(), possible.end(), isa) == possible.end()) return 0.0;
  BurstFn* const burst = kernels_of(isa)->int8_burst;
  return burst == nullptr ? 0.0 : best_rate(burst, seconds);
}

double read_bandwidth(size_t bytes, double seconds) {
  constexpr size_t kStep = 512;
  const size_t size = std::max<size_t>(bytes, 4096) / kStep * kStep;
  const std::unique_ptr<uint8_t, decltype(&std::free)> buffer(static_cast<uint8_t*>(std::aligned_alloc(kStep, size)),
                                                              &std::free);
  if (buffer == nullptr) return 0.0;
  std::memset(buffer.get(), 1, size);  // untouched pages would all be the one zero page, which never leaves the cache
  ReadAllFn* const widest = kernels_of(available_isas().back())->read_all;
  ReadAllFn* const read = widest == nullptr ? read_all_baseline : widest;
  volatile uint64_t sink = 0;  // keeps the reads: their sum is used
  const auto pass = [&](int64_t rounds) {
    for (int64_t i = 0; i < rounds; ++i) sink = sink + read(buffer.get(), size);
    return static_cast<int64_t>(size) * rounds;
  };
  return best_rate(pass, seconds);
}

}  // namespace kdnative::cpu
