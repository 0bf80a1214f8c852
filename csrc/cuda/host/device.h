// One GPU: its properties, the kernels that were loaded onto it, and the launcher that starts them.
#pragma once

#include <functional>
#include <string>

#include "../launcher.h"
#include "driver.h"

namespace kdnative::cuda {

// The image of a family of kernels (a cubin or PTX) for a device of some capability; throws if there is none.
using ImageSource = std::function<std::string(const std::string& family, int capability)>;

// Says where images come from. To be called before the first launch.
void set_image_source(ImageSource source);

struct DeviceFacts {
  std::string name;
  int capability;  // ten times the major number, and the minor one
  int multiprocessors;
};

// RuntimeErrors without a driver.
int device_count();
int driver_version();  // of CUDA: 1000 times the major number, and 10 times the minor one

// Of the device of that number. Throws std::runtime_error without a driver or such a device.
DeviceFacts device_facts(int ordinal);

// Starts kernels on one device and stream. A launcher is made for each call of an operator, and costs nothing: devices,
// modules and functions are kept for as long as the process lives.
class DriverLauncher : public gpu::Launcher {
 public:
  // Throws std::runtime_error if there is no driver, no such device, or one that is too old.
  DriverLauncher(int ordinal, Stream stream);
  DriverLauncher(const DriverLauncher&) = delete;
  DriverLauncher& operator=(const DriverLauncher&) = delete;

  void launch(const gpu::Kernel& kernel, void** arguments) override;
  // Counters that are 0, for a launch that leaves them 0. nullptr: there are none left, so take memory and zero() it.
  uint32_t* counters(int64_t count);
  // This many zeros of 32 bits, in the order of the stream.
  void zero(void* device_memory, int64_t count);
  int multiprocessors() const override;
  int capability() const override;

 private:
  struct Gpu& gpu_;
  Context context_;  // current only while the driver is called: torch allocates in between, maybe on another device
  Stream stream_;
};

}  // namespace kdnative::cuda
