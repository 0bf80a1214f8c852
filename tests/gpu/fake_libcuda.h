// A CUDA driver whose GPUs are the emulator, and whose memory is that of the host. fake_libcuda.py builds a library of
// it with the kernels of all families; KDNATIVE_LIBCUDA names that library. It has the functions that
// csrc/cuda/host/driver.h declares, and refuses what a driver would refuse.
//
// The library is loaded before all others (LD_PRELOAD), so that it sees where torch's tensors begin and end, which are
// the memory of the GPU: kernels may touch nothing else.
//
// Environment: FAKE_CUDA_CAPABILITY (80), FAKE_CUDA_DEVICES (1), FAKE_CUDA_EAGER (0: copies happen as late as they
// may), FAKE_CUDA_SEED (0: in order), FAKE_CUDA_CHECK (1: races, unwritten bytes and the like are errors),
// FAKE_CUDA_CAPTURING (0), FAKE_CUDA_REFUSED_LOADS and FAKE_CUDA_REFUSED_MEMORY (0; otherwise the error of each).
#pragma once

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "emulator/emulated_launcher.h"
#include "fake_memory.h"

namespace fake {

enum Result {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kInvalidImage = 200,
  kNoContext = 201,
  kNotFound = 500,
  kFailed = 719,
  kCaptureUnsupported = 900
};

inline int setting(const char* name, int otherwise) {
  const char* given = std::getenv(name);
  return given == nullptr || *given == 0 ? otherwise : std::atoi(given);
}
inline int capability() { return setting("FAKE_CUDA_CAPABILITY", 80); }

struct Module {
  std::string image;
};
struct Function {
  std::string name;
  size_t shared_bytes = 48 << 10;  // that it may use
};

inline std::mutex mutex;
inline std::map<int, int> contexts;  // how often they are held
inline std::vector<int*> current;    // pushed contexts; one thread at a time
inline std::vector<std::unique_ptr<Module>> modules;
inline std::vector<std::unique_ptr<Function>> functions;
inline std::string last_error = "no error", launched;
inline bool started = false;
inline std::array<uint64_t, 10> last_arguments;

// The bytes of a cubin, by the table at its end; a text ends with a zero.
inline std::string image_of(const void* at) {
  const char* bytes = static_cast<const char*>(at);
  if (std::memcmp(bytes,
                  "\x7f"
                  "ELF",
                  4) != 0)
    return bytes;
  uint64_t table;
  uint16_t entry, count;
  std::memcpy(&table, bytes + 40, 8);
  std::memcpy(&entry, bytes + 58, 2);
  std::memcpy(&count, bytes + 60, 2);
  return std::string(bytes, table + entry * count);
}

inline int refuse(int result, const std::string& why) {
  last_error = why;
  return result;
}

// What a driver refuses while a CUDA graph is recorded, unless the thread has said that it knows (2: relaxed).
inline thread_local int capture_mode = 0;
inline bool recording() { return setting("FAKE_CUDA_CAPTURING", 0) != 0 && capture_mode != 2; }
inline int refuse_while_recording() { return refuse(kCaptureUnsupported, "not while a graph is recorded"); }

}  // namespace fake

#define FAKE_API extern "C" __attribute__((visibility("default")))

extern "C" {
__attribute__((visibility("default"))) int kdnative_kernels_run_on_host_memory = 1;
}

// For tests: the names of all kernels that were launched, each with a newline.
FAKE_API const char* fake_cuda_launched() { return fake::launched.c_str(); }

FAKE_API int cuInit(unsigned flags) {
  fake::started = true;
  return flags == 0 ? fake::kSuccess : fake::kInvalidValue;
}
FAKE_API int cuDriverGetVersion(int* version) {
  *version = 12040;
  return fake::kSuccess;
}
FAKE_API int cuGetErrorString(int, const char** text) {
  *text = fake::last_error.c_str();
  return fake::kSuccess;
}
FAKE_API int cuDeviceGetCount(int* count) {
  if (!fake::started) return fake::refuse(fake::kInvalidValue, "not initialised");
  *count = fake::setting("FAKE_CUDA_DEVICES", 1);
  return fake::kSuccess;
}
FAKE_API int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal + 100;  // it is not the ordinal
  return fake::kSuccess;
}
FAKE_API int cuDeviceGetName(char* name, int bytes, int device) {
  std::snprintf(name, static_cast<size_t>(bytes), "emulated GPU %d", device - 100);
  return fake::kSuccess;
}
FAKE_API int cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 16:
      *value = 4;
      return fake::kSuccess;
    case 75:
      *value = fake::capability() / 10;
      return fake::kSuccess;
    case 76:
      *value = fake::capability() % 10;
      return fake::kSuccess;
    default:
      return fake::refuse(fake::kInvalidValue, "unknown attribute " + std::to_string(attribute));
  }
}
FAKE_API int cuDevicePrimaryCtxRetain(int** context, int device) {
  int& held = fake::contexts[device];
  ++held;
  *context = &held;
  return fake::kSuccess;
}
FAKE_API int cuCtxPushCurrent_v2(int* context) {
  const std::lock_guard<std::mutex> lock(fake::mutex);
  fake::current.push_back(context);
  return fake::kSuccess;
}
FAKE_API int cuCtxPopCurrent_v2(int** context) {
  const std::lock_guard<std::mutex> lock(fake::mutex);
  if (fake::current.empty()) return fake::refuse(fake::kNoContext, "no context to pop");
  *context = fake::current.back();
  fake::current.pop_back();
  return fake::kSuccess;
}
FAKE_API int cuModuleLoadDataEx(fake::Module** module, const void* image, unsigned options, int*, void**) {
  const std::lock_guard<std::mutex> lock(fake::mutex);
  if (fake::current.empty()) return fake::refuse(fake::kNoContext, "no context");
  if (options != 0) return fake::refuse(fake::kInvalidValue, "options");
  if (fake::recording()) return fake::refuse_while_recording();
  if (const int refused = fake::setting("FAKE_CUDA_REFUSED_LOADS", 0)) return fake::refuse(refused, "no load");
  std::string bytes = fake::image_of(image);
  if (bytes.empty()) return fake::refuse(fake::kInvalidImage, "an empty image");
  fake::modules.push_back(std::make_unique<fake::Module>(fake::Module{std::move(bytes)}));
  *module = fake::modules.back().get();
  return fake::kSuccess;
}
FAKE_API int cuModuleGetFunction(fake::Function** function, fake::Module* module, const char* name) {
  const std::lock_guard<std::mutex> lock(fake::mutex);
  if (fake::current.empty()) return fake::refuse(fake::kNoContext, "no context");
  if (module->image != "any" && module->image.find(name) == std::string::npos)
    return fake::refuse(fake::kNotFound, std::string("the image has no kernel ") + name);
  if (gpu::emulator::registered_kernels().count(name) == 0)
    return fake::refuse(fake::kNotFound, std::string("the emulator has no kernel ") + name);
  fake::functions.push_back(std::make_unique<fake::Function>(fake::Function{name}));
  *function = fake::functions.back().get();
  return fake::kSuccess;
}
FAKE_API int cuFuncSetAttribute(fake::Function* function, int attribute, int value) {
  if (attribute != 8) return fake::refuse(fake::kInvalidValue, "unknown attribute");
  if (static_cast<size_t>(value) > gpu::emulator::most_shared_bytes(fake::capability()))
    return fake::refuse(fake::kInvalidValue, "more shared memory than a block may have");
  function->shared_bytes = static_cast<size_t>(value);
  return fake::kSuccess;
}
FAKE_API int cuMemsetD32Async(void* memory, unsigned value, size_t count, void*) {
  if (fake::current.empty()) return fake::refuse(fake::kNoContext, "no context");
  std::fill_n(static_cast<unsigned*>(memory), count, value);
  return fake::kSuccess;
}
FAKE_API int cuMemAlloc_v2(unsigned long long* memory, size_t bytes) {
  if (fake::current.empty()) return fake::refuse(fake::kNoContext, "no context");
  if (fake::recording()) return fake::refuse_while_recording();
  if (const int refused = fake::setting("FAKE_CUDA_REFUSED_MEMORY", 0)) return fake::refuse(refused, "no memory");
  void* at = nullptr;
  if (posix_memalign(&at, 512, bytes) != 0) return fake::refuse(fake::kOutOfMemory, "no memory");
  *memory = reinterpret_cast<unsigned long long>(at);
  return fake::kSuccess;
}
FAKE_API int cuMemFree_v2(unsigned long long memory) {
  std::free(reinterpret_cast<void*>(memory));
  return fake::kSuccess;
}
FAKE_API int cuStreamCreate(void** stream, unsigned flags) {
  if (flags != 1) return fake::refuse(fake::kInvalidValue, "a stream that waits for others");
  if (fake::recording()) return fake::refuse_while_recording();
  *stream = &fake::started;
  return fake::kSuccess;
}
FAKE_API int cuStreamSynchronize(void*) {
  return fake::recording() ? fake::refuse_while_recording() : static_cast<int>(fake::kSuccess);
}
FAKE_API int cuStreamDestroy_v2(void*) { return fake::kSuccess; }
FAKE_API int cuThreadExchangeStreamCaptureMode(int* mode) {
  std::swap(*mode, fake::capture_mode);
  return fake::kSuccess;
}
// For tests: the mode of this thread, and how many contexts are pushed.
FAKE_API int fake_cuda_capture_mode() { return fake::capture_mode; }
FAKE_API int fake_cuda_pushed() { return static_cast<int>(fake::current.size()); }
// A stream's work is recorded while FAKE_CUDA_CAPTURING is 1, and done all the same.
FAKE_API int cuStreamIsCapturing(void*, int* status) {
  *status = fake::setting("FAKE_CUDA_CAPTURING", 0);
  return fake::kSuccess;
}
// For tests: where the last kernel's argument of a number points to.
FAKE_API uint64_t fake_cuda_argument(int i) { return fake::last_arguments[static_cast<size_t>(i)]; }

FAKE_API int cuLaunchKernel(fake::Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                            unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes, void*,
                            void** arguments, void** extra) {
  const std::lock_guard<std::mutex> lock(fake::mutex);
  if (fake::current.empty()) return fake::refuse(fake::kNoContext, "no context");
  if (block_y != 1 || block_z != 1 || extra != nullptr || shared_bytes > function->shared_bytes)
    return fake::refuse(fake::kInvalidValue, "a block that this function can't have");
  fake::launched += function->name + "\n";
  // Only gemv kernels are asked for, whose first ten arguments are pointers.
  if (function->name.find("_gemv_") != std::string::npos)
    for (size_t i = 0; i < fake::last_arguments.size(); ++i)
      std::memcpy(&fake::last_arguments[i], arguments[i], sizeof(uint64_t));
  gpu::emulator::EmulatedLauncher launcher;
  launcher.machine.options = {fake::setting("FAKE_CUDA_EAGER", 0) != 0, fake::setting("FAKE_CUDA_CHECK", 1) != 0,
                              static_cast<unsigned>(fake::setting("FAKE_CUDA_SEED", 0))};
  launcher.capability_ = fake::capability();
  gpu::emulator::DeviceMemory memory;
  memory.owner = fake::allow_tensor;
  launcher.machine.memory = &memory;
  gpu::Kernel kernel{"", function->name.c_str()};
  kernel.grid_x = grid_x;
  kernel.grid_y = grid_y;
  kernel.grid_z = grid_z;
  kernel.threads = block_x;
  kernel.shared_bytes = shared_bytes;
  try {
    launcher.launch(kernel, arguments);
  } catch (const std::exception& error) {
    return fake::refuse(fake::kFailed, error.what());
  }
  return fake::kSuccess;
}
