// NVIDIA's driver, found at first use: kdnative links to nothing of CUDA, so one library runs with and without a GPU.
//
// The functions below are the driver's own C ABI, of which kdnative declares what it calls. They are those of CUDA 11
// and newer; _v2 is part of the name of some of them.
#pragma once

#include <cstddef>
#include <string>

namespace kdnative::cuda {

using Result = int;  // 0 is success
using DeviceId = int;
using Context = struct ContextOpaque*;
using Module = struct ModuleOpaque*;
using Function = struct FunctionOpaque*;
using Stream = struct StreamOpaque*;

// Attributes of devices and functions, by the driver's numbers.
constexpr int kMultiprocessorCount = 16, kComputeMajor = 75, kComputeMinor = 76, kMostSharedBytesOptIn = 97;
constexpr int kFunctionDynamicSharedBytes = 8;
constexpr Result kOutOfMemory = 2, kCaptureUnsupported = 900;
constexpr unsigned kStreamNonBlocking = 1;

struct Driver {
  Result (*init)(unsigned flags);
  Result (*version)(int* version);
  Result (*error_string)(Result error, const char** text);
  Result (*device_count)(int* count);
  Result (*device_get)(DeviceId* device, int ordinal);
  Result (*device_name)(char* name, int bytes, DeviceId device);
  Result (*device_attribute)(int* value, int attribute, DeviceId device);
  Result (*primary_context)(Context* context, DeviceId device);
  Result (*push_context)(Context context);
  Result (*pop_context)(Context* context);
  Result (*module_load)(Module* module, const void* image, unsigned options, int* names, void** values);
  Result (*module_function)(Function* function, Module module, const char* name);
  Result (*function_attribute)(Function function, int attribute, int value);
  Result (*fill)(void* device_memory, unsigned value, size_t count, Stream stream);  // 32-bit values
  Result (*allocate)(unsigned long long* device_memory, size_t bytes);
  Result (*release)(unsigned long long device_memory);
  Result (*stream_create)(Stream* stream, unsigned flags);
  Result (*stream_synchronize)(Stream stream);
  Result (*stream_destroy)(Stream stream);
  Result (*exchange_capture_mode)(int* mode);          // of this thread: takes the new one, gives the old one
  Result (*is_capturing)(Stream stream, int* status);  // 0: the stream's work is not recorded in a graph
  Result (*launch)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** arguments,
                   void** extra);
  std::string file;  // the library that they are from
  bool host_memory;  // it computes on the memory of the host: not a GPU, but the emulator of the tests

  // Throws std::runtime_error with `what` and the driver's words for the error.
  void check(Result result, const std::string& what) const;
};

// The driver of this process, initialised. Its library is libcuda.so.1, or the file that the environment variable
// KDNATIVE_LIBCUDA names. Throws std::runtime_error that says what is missing, at every call.
const Driver& driver();

// As long as this lives, this thread may allocate, load and wait although a CUDA graph is being recorded, by this
// thread or by another one: what it does so is not part of the graph.
class BesideGraphs {
 public:
  BesideGraphs() { driver().check(driver().exchange_capture_mode(&mode_), "to work while a CUDA graph is recorded"); }
  ~BesideGraphs() { driver().exchange_capture_mode(&mode_); }
  BesideGraphs(const BesideGraphs&) = delete;
  BesideGraphs& operator=(const BesideGraphs&) = delete;

 private:
  int mode_ = 2;  // relaxed; then what it was before
};

// A context that is current as long as this lives.
class CurrentContext {
 public:
  explicit CurrentContext(Context context) { driver().check(driver().push_context(context), "a context"); }
  ~CurrentContext() {
    Context popped = nullptr;
    driver().pop_context(&popped);
  }
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;
};

// Whether KDNATIVE_LIBCUDA names a library that computes on the memory of the host. Starts nothing.
bool driver_has_host_memory();

}  // namespace kdnative::cuda
