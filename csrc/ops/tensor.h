// Owning views of torch tensors and the boxed calling convention, over torch_abi.h.
#pragma once

#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "../cpu/kernels.h"
#include "../cpu/split.h"
#include "fork.h"
#include "torch_abi.h"

namespace kdnative {

[[noreturn]] inline void fail(const std::string& message) { throw std::runtime_error("kdnative: " + message); }

inline void check(AOTITorchError code, const char* what) {
  if (code != 0) fail(std::string("torch refused ") + what);
}

struct Device {
  int32_t type, index;

  bool operator==(const Device& other) const = default;
  static Device cpu() {
    static const int32_t type = aoti_torch_device_type_cpu();
    return {type, 0};
  }
};

// As torch.device prints it.
inline std::string device_text(Device device) {
  if (device.type == Device::cpu().type) return "cpu";
  static const int32_t cuda = aoti_torch_device_type_cuda();
  return (device.type == cuda ? "cuda:" : "a device of type " + std::to_string(device.type) + ", ") +
         std::to_string(device.index);
}

inline std::string shape_text(int64_t ndim, const int64_t* sizes) {
  std::string text = "[";
  for (int64_t d = 0; d < ndim; ++d) text += (d ? ", " : "") + std::to_string(sizes[d]);
  return text + "]";
}

// Torch has no memory for a tensor.
struct OutOfMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Owns one reference to a torch tensor.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(AtenTensorHandle handle) : handle_(handle) {}
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Tensor() {
    if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
  }

  static Tensor empty(int64_t ndim, const int64_t* sizes, int32_t dtype, Device device = Device::cpu()) {
    int64_t strides[kMaxDims];
    int64_t stride = 1;
    for (int64_t d = ndim - 1; d >= 0; --d) {
      strides[d] = stride;
      // Also of tensors without numbers: one size may be 0 and the others anything.
      if (sizes[d] > 1 && __builtin_mul_overflow(stride, sizes[d], &stride))
        fail("the output has sizes whose product is beyond 64 bits; give a smaller input");
    }
    AtenTensorHandle handle = nullptr;
    if (aoti_torch_empty_strided(ndim, sizes, strides, dtype, device.type, device.index, &handle) != 0)
      throw OutOfMemory("kdnative: torch refused to allocate " + std::to_string(stride) + " times " +
                        std::to_string(aoti_torch_dtype_element_size(dtype)) + " bytes for a tensor of shape " +
                        shape_text(ndim, sizes) + " on " + device_text(device));
    return Tensor(handle);
  }

  // Numbers that somebody else owns, for as long as they are there: [columns] without rows, else [rows, columns].
  static Tensor of_memory(const void* data, std::optional<int64_t> rows, int64_t columns, int32_t dtype,
                          Device device) {
    const int64_t sizes[] = {rows.value_or(1), columns}, strides[] = {columns, 1};
    const int skipped = rows ? 0 : 1;
    AtenTensorHandle handle = nullptr;
    check(aoti_torch_create_tensor_from_blob(const_cast<void*>(data), 2 - skipped, sizes + skipped, strides + skipped,
                                             0, dtype, device.type, device.index, &handle),
          "a view");
    return Tensor(handle);
  }

  // The first numbers of rows that lie `stride` apart: a view [rows, columns].
  Tensor columns(int64_t rows, int64_t columns, int64_t stride) const {
    const int64_t sizes[] = {rows, columns}, strides[] = {stride, 1};
    AtenTensorHandle handle = nullptr;
    check(aoti_torch__reinterpret_tensor(handle_, 2, sizes, strides, 0, &handle), "a view");
    return Tensor(handle);
  }

  // The numbers of another tensor of the same shape, in the order of the current stream.
  void copy_(const Tensor& from) { check(aoti_torch_copy_(handle_, from.handle_, 1), "to copy the input"); }

  explicit operator bool() const { return handle_ != nullptr; }
  AtenTensorHandle release() { return std::exchange(handle_, nullptr); }

  int64_t dim() const {
    int64_t value = 0;
    check(aoti_torch_get_dim(handle_, &value), "dim()");
    return value;
  }
  const int64_t* sizes() const {
    int64_t* value = nullptr;
    check(aoti_torch_get_sizes(handle_, &value), "sizes()");
    return value;
  }
  const int64_t* strides() const {
    int64_t* value = nullptr;
    check(aoti_torch_get_strides(handle_, &value), "strides()");
    return value;
  }
  int32_t dtype() const {
    int32_t value = 0;
    check(aoti_torch_get_dtype(handle_, &value), "dtype");
    return value;
  }
  int32_t device_type() const {
    int32_t value = 0;
    check(aoti_torch_get_device_type(handle_, &value), "device");
    return value;
  }
  Device device() const {
    Device value{device_type(), 0};
    check(aoti_torch_get_device_index(handle_, &value.index), "device");
    return value;
  }
  bool on_cpu() const { return device_type() == Device::cpu().type; }
  void* data() const {
    void* value = nullptr;
    check(aoti_torch_get_data_ptr(handle_, &value), "data_ptr()");
    return value;
  }
  bool contiguous() const {
    const int64_t *size = sizes(), *stride = strides();
    int64_t expected = 1;
    for (int64_t d = dim() - 1; d >= 0; --d) {
      if (size[d] == 0) return true;
      if (size[d] != 1 && stride[d] != expected) return false;
      expected *= size[d];
    }
    return true;
  }

  static constexpr int64_t kMaxDims = 16;

 private:
  AtenTensorHandle handle_ = nullptr;
};

inline std::string shape_text(const Tensor& t) { return shape_text(t.dim(), t.sizes()); }

// As torch.dtype prints it, for errors; a number where this library has no name for it.
inline std::string dtype_text(int32_t dtype) {
  const std::pair<int32_t, const char*> names[] = {
      {aoti_torch_dtype_float32(), "float32"}, {aoti_torch_dtype_float64(), "float64"},
      {aoti_torch_dtype_float16(), "float16"}, {aoti_torch_dtype_bfloat16(), "bfloat16"},
      {aoti_torch_dtype_int64(), "int64"},     {aoti_torch_dtype_int32(), "int32"},
      {aoti_torch_dtype_int8(), "int8"},       {aoti_torch_dtype_uint8(), "uint8"},
      {aoti_torch_dtype_bool(), "bool"},
  };
  for (const auto& [code, name] : names)
    if (code == dtype) return name;
  return "torch dtype code " + std::to_string(dtype);
}

// Arguments arrive owned: taking one moves it off the stack.
inline Tensor take_tensor(StableIValue value) {
  AtenTensorHandle handle;
  std::memcpy(&handle, &value, sizeof handle);
  return Tensor(handle);
}
inline Tensor take_optional_tensor(StableIValue value) {  // nullptr, or a heap cell that holds the handle
  StableIValue* cell;
  std::memcpy(&cell, &value, sizeof cell);
  if (cell == nullptr) return Tensor();
  Tensor tensor = take_tensor(*cell);
  delete cell;
  return tensor;
}
inline int64_t take_int(StableIValue value) {
  int64_t number;
  std::memcpy(&number, &value, sizeof number);
  return number;
}
inline double take_float(StableIValue value) {
  double number;
  std::memcpy(&number, &value, sizeof number);
  return number;
}
inline StableIValue give_tensor(Tensor tensor) {
  AtenTensorHandle handle = tensor.release();
  StableIValue value = 0;
  std::memcpy(&value, &handle, sizeof handle);
  return value;
}

inline StableIValue give_optional_tensor(Tensor tensor) {  // as take_optional_tensor takes it
  StableIValue value = 0;
  if (!tensor) return value;
  auto* cell = new StableIValue(give_tensor(std::move(tensor)));
  std::memcpy(&value, &cell, sizeof cell);
  return value;
}

// The kernels' name of a floating dtype; fails with `op` and `what` in the text for every other dtype.
inline cpu::DType float_type(const Tensor& t, const char* op, const char* what) {
  static const int32_t f32 = aoti_torch_dtype_float32(), bf16 = aoti_torch_dtype_bfloat16(),
                       f16 = aoti_torch_dtype_float16();
  const int32_t type = t.dtype();
  if (type == f32) return cpu::DType::f32;
  if (type == bf16) return cpu::DType::bf16;
  if (type == f16) return cpu::DType::f16;
  fail(std::string(op) + ": " + what + " must be float32, bfloat16 or float16 (got " + dtype_text(type) +
       "); convert it with .float() first");
}

inline void require_cpu(const Tensor& t, const char* op, const char* what) {
  if (!t.on_cpu()) {
    fail(std::string(op) + ": " + what +
         " is on another device, but this kernel runs on the CPU; call .cpu() on it, or keep the " +
         "original float module on that device");
  }
}

// Torch's own thread pool, for cpu::run_team.
inline int64_t thread_count() {
  uint32_t threads = 1;
  check(torch_get_num_threads(&threads), "get_num_threads");
  return usable_threads(threads);
}

inline cpu::Parallel thread_pool() {
  const auto run = [](int64_t n, void (*fn)(int64_t begin, int64_t end, void* ctx), void* ctx) {
    if (pool_is_lost()) return fn(0, n, ctx);
    check(torch_parallel_for(0, n, 1, fn, ctx), "parallel_for");
  };
  return {run, thread_count()};
}

}  // namespace kdnative
