// What tests of refused launches share: a device that only writes down what it is asked for, so that a launch that
// should have been refused does not run for hours.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "emulator/testing.h"
#include "launcher.h"

namespace gpu::emulator {

struct Recorder : Launcher {
  std::vector<std::string> launched;
  void launch(const Kernel& kernel, void**) override { launched.push_back(kernel.name); }
  int multiprocessors() const override { return 4; }
  int capability() const override { return 80; }
};

// The call throws std::invalid_argument with these words.
template <typename F>
void expect_refusal(const std::string& words, F call) {
  try {
    call();
    expect(false, "not refused: " + words);
  } catch (const std::invalid_argument& e) {
    expect(std::string(e.what()).find(words) != std::string::npos, std::string(e.what()) + " lacks: " + words);
  }
}

}  // namespace gpu::emulator
