#include "device.h"

#include <deque>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "counters.h"

namespace kdnative::cuda {
namespace {

constexpr int kLeastCapability = 80;  // mma.sync of int8 and bfloat16, cp.async
constexpr uint32_t kSharedWithoutAsking = 48 << 10;

ImageSource& image_source() {
  static auto* const source = new ImageSource;  // never destroyed, as all statics here: see gpu_of()
  return *source;
}

int attribute(DeviceId id, int which) {
  int value = 0;
  driver().check(driver().device_attribute(&value, which, id), "to describe a device");
  return value;
}

struct LoadedFunction {
  Function function = nullptr;
  uint32_t shared_bytes = kSharedWithoutAsking;  // that it may use
};

}  // namespace

struct Gpu {
  int ordinal = 0;
  DeviceId id = 0;
  Context context = nullptr;
  DeviceFacts facts;
  Counters counters;
  std::mutex mutex;  // for what follows
  std::map<std::string, Module, std::less<>> modules;
  std::map<std::pair<std::string, std::string>, LoadedFunction> functions;

  explicit Gpu(int number) : ordinal(number) {
    const Driver& d = driver();
    const int count = device_count();
    if (number < 0 || number >= count)
      throw std::runtime_error("there is no CUDA device " + std::to_string(number) + ", the driver has " +
                               std::to_string(count));
    d.check(d.device_get(&id, number), "a device");
    char name[128] = {};
    d.check(d.device_name(name, sizeof name - 1, id), "the name of a device");
    facts = {name, attribute(id, kComputeMajor) * 10 + attribute(id, kComputeMinor),
             attribute(id, kMultiprocessorCount)};
  }

  // The context that torch uses too. Held from the first launch on.
  Context retain() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (context != nullptr) return context;
    if (facts.capability < kLeastCapability)
      throw std::runtime_error(
          facts.name + " has compute capability " + std::to_string(facts.capability / 10) + "." +
          std::to_string(facts.capability % 10) +
          ", and kdnative's CUDA kernels need 8.0: set KDNATIVE_GPU_KERNELS=reference to compute in "
          "plain torch, or keep the model on the CPU");
    const BesideGraphs beside;
    Context taken = nullptr;
    driver().check(driver().primary_context(&taken, id), "the context of " + facts.name);
    return context = taken;
  }

  // With the context current. Kernels are loaded at their first launch.
  Function function(const gpu::Kernel& kernel) {
    const Module from = module(kernel.module);
    const std::lock_guard<std::mutex> lock(mutex);
    LoadedFunction& found = functions[{kernel.module, kernel.name}];
    if (found.function != nullptr && kernel.shared_bytes <= found.shared_bytes) return found.function;
    const Driver& d = driver();
    const BesideGraphs beside;
    if (found.function == nullptr)
      d.check(d.module_function(&found.function, from, kernel.name), std::string("the kernel ") + kernel.name);
    if (kernel.shared_bytes > found.shared_bytes) {
      d.check(d.function_attribute(found.function, kFunctionDynamicSharedBytes, static_cast<int>(kernel.shared_bytes)),
              std::to_string(kernel.shared_bytes) + " bytes of shared memory for " + kernel.name);
      found.shared_bytes = kernel.shared_bytes;
    }
    return found.function;
  }

  Module module(const char* family) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (const auto found = modules.find(family); found != modules.end()) return found->second;
    }
    // Without the lock: whoever waits for it may hold Python's, which the source of images needs.
    if (!image_source()) throw std::runtime_error("nobody said where kernels come from: import kdnative.ops first");
    const std::string image = image_source()(family, facts.capability);
    const std::lock_guard<std::mutex> lock(mutex);
    if (const auto found = modules.find(family); found != modules.end()) return found->second;  // by another thread
    const std::string what = std::string("the kernels of ") + family + " for " + facts.name;
    Module loaded = nullptr;
    const BesideGraphs beside;
    const Result result = driver().module_load(&loaded, image.c_str(), 0, nullptr, nullptr);
    if (result == kCaptureUnsupported)
      throw std::runtime_error("a CUDA graph is being recorded, and " + what +
                               " aren't loaded yet, which this driver can't do meanwhile; call the layer once before "
                               "recording");
    driver().check(result, what +
                               " (if they were compiled here, the cache has them: delete its folder cuda, which "
                               "kdnative doctor names)");
    modules.emplace(family, loaded);  // not before: one that failed is loaded at the next call
    return loaded;
  }
};

namespace {

Gpu& gpu_of(int ordinal) {
  static std::mutex mutex;
  // Which stay where they are, also at the end of the process: other threads may still launch, and Python is gone.
  static auto* const gpus = new std::map<int, Gpu>;
  const std::lock_guard<std::mutex> lock(mutex);
  return gpus->try_emplace(ordinal, ordinal).first->second;
}

}  // namespace

int device_count() {
  int count = 0;
  driver().check(driver().device_count(&count), "to count devices");
  return count;
}

int driver_version() {
  int version = 0;
  driver().check(driver().version(&version), "its version");
  return version;
}

void set_image_source(ImageSource source) { image_source() = std::move(source); }

DeviceFacts device_facts(int ordinal) { return gpu_of(ordinal).facts; }

DriverLauncher::DriverLauncher(int ordinal, Stream stream)
    : gpu_(gpu_of(ordinal)), context_(gpu_.retain()), stream_(stream) {}

void DriverLauncher::launch(const gpu::Kernel& kernel, void** arguments) {
  const CurrentContext current(context_);
  driver().check(driver().launch(gpu_.function(kernel), kernel.grid_x, kernel.grid_y, kernel.grid_z, kernel.threads, 1,
                                 1, kernel.shared_bytes, stream_, arguments, nullptr),
                 std::string("to launch ") + kernel.name);
}

uint32_t* DriverLauncher::counters(int64_t count) {
  const CurrentContext current(context_);
  return gpu_.counters.take(count, stream_);
}

void DriverLauncher::zero(void* device_memory, int64_t count) {
  const CurrentContext current(context_);
  driver().check(driver().fill(device_memory, 0, static_cast<size_t>(count), stream_), "to fill memory");
}

int DriverLauncher::multiprocessors() const { return gpu_.facts.multiprocessors; }
int DriverLauncher::capability() const { return gpu_.facts.capability; }

}  // namespace kdnative::cuda
