// A launcher that runs kernels on the emulator: what chooses and launches kernels is tested as it is.
//
// Kernels are found by name. A source that includes the .cu of a family names each kernel once, outside of functions:
//   EMULATED_KERNEL(name, threads)   with the threads of its GPU_KERNEL
#pragma once

#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "launch.h"
#include "launcher.h"  // csrc/cuda

namespace gpu::emulator {

struct Registered {
  int threads;                                                     // that its launch bounds allow
  std::function<std::function<void()>(void** arguments)> prepare;  // reads the arguments, returns a thread's run
};
inline std::map<std::string, Registered>& registered_kernels() {
  static std::map<std::string, Registered> kernels;
  return kernels;
}

template <typename... Arguments>
bool register_kernel(const char* name, int threads, void (*kernel)(Arguments...)) {
  const auto prepare = [kernel](void** arguments) -> std::function<void()> {
    return [&]<size_t... i>(std::index_sequence<i...>) {
      const std::tuple<Arguments...> values{*static_cast<Arguments*>(arguments[i])...};
      return [kernel, values] { std::apply(kernel, values); };
    }(std::index_sequence_for<Arguments...>{});
  };
  registered_kernels()[name] = {threads, prepare};
  return true;
}
#define EMULATED_KERNEL(name, threads) \
  static const bool registered_##name = gpu::emulator::register_kernel(#name, threads, name);

// Shared memory that a block may have, by ten times the compute capability.
inline size_t most_shared_bytes(int capability) {
  if (capability == 86 || capability == 89 || capability >= 120) return 99 << 10;
  return (capability >= 90 ? 227 : 163) << 10;
}

class EmulatedLauncher : public Launcher {
 public:
  Machine machine;  // its options, memory and counters
  int capability_ = 80;
  int multiprocessors_ = 4;  // few, so that small shapes take the ways of large ones
  std::vector<std::string> launched;

  void launch(const Kernel& kernel, void** arguments) override {
    const auto found = registered_kernels().find(kernel.name);
    if (found == registered_kernels().end())
      throw Error(std::string(kernel.name) + ": no kernel of this name is built in");
    if (static_cast<int>(kernel.threads) > found->second.threads)
      throw Error(std::string(kernel.name) + ": " + std::to_string(kernel.threads) +
                  " threads, its launch bounds allow " + std::to_string(found->second.threads));
    if (kernel.shared_bytes > most_shared_bytes(capability_))
      throw Error(std::string(kernel.name) + ": " + std::to_string(kernel.shared_bytes) +
                  " bytes of shared memory, compute capability " + std::to_string(capability_ / 10) + "." +
                  std::to_string(capability_ % 10) + " has " + std::to_string(most_shared_bytes(capability_)));
    launched.push_back(kernel.name);
    const Grid grid{static_cast<int>(kernel.grid_x), static_cast<int>(kernel.grid_y), static_cast<int>(kernel.grid_z),
                    static_cast<int>(kernel.threads), kernel.shared_bytes};
    emulator::launch(machine, kernel.name, grid, found->second.prepare(arguments));
  }
  int multiprocessors() const override { return multiprocessors_; }
  int capability() const override { return capability_; }
};

}  // namespace gpu::emulator
