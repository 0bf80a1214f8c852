// What test programs of kernels share: the ways to run a kernel, failures, and counters as lines of JSON.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "launch.h"

namespace gpu::emulator {

// Copies as late and as early as possible, in order and in two random schedules.
inline std::vector<Options> every_mode() {
  return {{.eager = false}, {.eager = true}, {.eager = false, .seed = 7}, {.eager = true, .seed = 11}};
}

inline int failures = 0;

// Prints what went wrong, which makes the program fail; the first 20 times.
inline void expect(bool good, const std::string& what) {
  if (!good && ++failures <= 20) std::printf("FAIL %s\n", what.c_str());
}

// A line for tests/gpu/building.py: {"kernel": ..., "case": ..., "instructions": ..., "shared": ..., "global": ...}
inline void print_counters(const std::string& kernel, const std::string& what, const Counters& counters) {
  std::printf("{\"kernel\": \"%s\", \"case\": \"%s\", %s\n", kernel.c_str(), what.c_str(), counters.json().c_str() + 1);
}

// The end of main: 1 when something failed, a check of the emulator included.
inline int finish(const std::function<void()>& tests) {
  try {
    tests();
  } catch (const Error& e) {
    std::printf("ERROR %s\n", e.what());
    return 1;
  }
  return failures != 0;
}

}  // namespace gpu::emulator
