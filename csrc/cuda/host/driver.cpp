#include "driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>

namespace kdnative::cuda {
namespace {

// A library says by this symbol that pointers of the host are good for its kernels.
constexpr const char* kHostMemory = "kdnative_kernels_run_on_host_memory";

const char* library_name() {
  const char* named = std::getenv("KDNATIVE_LIBCUDA");
  return named != nullptr && *named != 0 ? named : "libcuda.so.1";
}

void* open_library() {
  void* library = dlopen(library_name(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    throw std::runtime_error(std::string("no CUDA driver: ") + (why == nullptr ? library_name() : why) +
                             "; install NVIDIA's driver, or keep the model on the CPU");
  }
  return library;
}

template <typename Function>
void find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function == nullptr)
    throw std::runtime_error(std::string("the CUDA driver ") + library_name() + " has no " + name +
                             "; install a newer driver, of CUDA 12 or later");
}

Driver load() {
  void* library = open_library();  // for as long as the process lives
  Driver d{};
  find(library, "cuInit", &d.init);
  find(library, "cuDriverGetVersion", &d.version);
  find(library, "cuGetErrorString", &d.error_string);
  find(library, "cuDeviceGetCount", &d.device_count);
  find(library, "cuDeviceGet", &d.device_get);
  find(library, "cuDeviceGetName", &d.device_name);
  find(library, "cuDeviceGetAttribute", &d.device_attribute);
  find(library, "cuDevicePrimaryCtxRetain", &d.primary_context);
  find(library, "cuCtxPushCurrent_v2", &d.push_context);
  find(library, "cuCtxPopCurrent_v2", &d.pop_context);
  find(library, "cuModuleLoadDataEx", &d.module_load);
  find(library, "cuModuleGetFunction", &d.module_function);
  find(library, "cuFuncSetAttribute", &d.function_attribute);
  find(library, "cuMemsetD32Async", &d.fill);
  find(library, "cuMemAlloc_v2", &d.allocate);
  find(library, "cuMemFree_v2", &d.release);
  find(library, "cuStreamCreate", &d.stream_create);
  find(library, "cuStreamSynchronize", &d.stream_synchronize);
  find(library, "cuStreamDestroy_v2", &d.stream_destroy);
  find(library, "cuThreadExchangeStreamCaptureMode", &d.exchange_capture_mode);
  find(library, "cuStreamIsCapturing", &d.is_capturing);
  find(library, "cuLaunchKernel", &d.launch);
  d.file = library_name();
  d.host_memory = dlsym(library, kHostMemory) != nullptr;
  d.check(d.init(0), "to start");
  return d;
}

}  // namespace

void Driver::check(Result result, const std::string& what) const {
  if (result == 0) return;
  const char* text = nullptr;
  if (error_string(result, &text) != 0 || text == nullptr) text = "an error without a name";
  throw std::runtime_error("the CUDA driver refused " + what + ": " + text + " (" + std::to_string(result) + ")");
}

const Driver& driver() {
  // One that failed is tried again at the next call. Never destroyed: threads may launch while the process ends.
  static const Driver* const loaded = new Driver(load());
  return *loaded;
}

bool driver_has_host_memory() {
  const char* named = std::getenv("KDNATIVE_LIBCUDA");
  if (named == nullptr || *named == 0) return false;
  return dlsym(open_library(), kHostMemory) != nullptr;
}

}  // namespace kdnative::cuda
