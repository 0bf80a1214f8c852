// What the code that chooses and launches kernels needs to know of a device. Product code launches through the driver
// (host/device.h), tests on the emulator. Plain C++: nothing of CUDA is included here.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace gpu {

// One launch. `module` is the family, which is the name of its source (csrc/cuda/MODULE.cu) and of its cubins.
struct Kernel {
  const char* module;
  const char* name;
  uint32_t grid_x = 1, grid_y = 1, grid_z = 1;
  uint32_t threads = 1;
  uint32_t shared_bytes = 0;
};

class Launcher {
 public:
  virtual ~Launcher() = default;
  // Starts the kernel and doesn't wait for it. arguments[i] points to the value of the i-th argument.
  // A grid of no blocks isn't launched. Throws std::runtime_error if the device refuses.
  virtual void launch(const Kernel& kernel, void** arguments) = 0;
  virtual int multiprocessors() const = 0;
  virtual int capability() const = 0;  // 80, 86, 89, 90: ten times the major number, and the minor one
};

// Throws std::invalid_argument if no device takes a grid of this size: y and z go to 65535, x to 2^31 - 1.
inline void check_grid(const Kernel& kernel) {
  if (kernel.grid_x > 0x7fffffffu || kernel.grid_y > 65535 || kernel.grid_z > 65535)
    throw std::invalid_argument(std::string(kernel.name) + ": a grid of " + std::to_string(kernel.grid_x) + " x " +
                                std::to_string(kernel.grid_y) + " x " + std::to_string(kernel.grid_z) +
                                " blocks is too large, at most 2147483647 x 65535 x 65535 can be launched; "
                                "give fewer rows at a time");
}

// The arguments must have the very types of the kernel's parameters: only their addresses are handed on.
template <class... Arguments>
void launch(Launcher& launcher, const Kernel& kernel, Arguments... arguments) {
  check_grid(kernel);
  if (kernel.grid_x == 0 || kernel.grid_y == 0 || kernel.grid_z == 0) return;
  void* pointers[] = {static_cast<void*>(&arguments)..., nullptr};
  launcher.launch(kernel, pointers);
}

}  // namespace gpu
