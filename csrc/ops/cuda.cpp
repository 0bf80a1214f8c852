#include "cuda.h"

#include <dlfcn.h>

#include <algorithm>
#include <optional>

#include "../cuda/quantize.h"
#include "linear.h"
#include "quantize.h"

namespace kdnative::cuda {
namespace {

constexpr int64_t kAlignment = 16;          // in bytes, of the first number of an input, and of a packed weight
constexpr int64_t kScratchAlignment = 256;  // of scratch memory, and of its sections

// The kernels' host code throws what it has to say; here it gets the name of the operator and the shapes.
template <typename F>
auto in_words(const char* op, const Tensor& x, const F& f) {
  const std::string ours = "kdnative: ", called = std::string(op) + " of an input of shape " + shape_text(x) + ": ";
  const auto bare = [&](std::string text) { return text.rfind(ours, 0) == 0 ? text.substr(ours.size()) : text; };
  try {
    return f();
  } catch (const OutOfMemory& error) {  // in the words by which torch's own are recognised
    throw std::runtime_error("CUDA out of memory. " + ours + called + bare(error.what()) +
                             "; give fewer rows at a time");
  } catch (const std::exception& error) {
    if (std::string(error.what()).rfind(ours + op, 0) == 0) throw;
    fail(called + bare(error.what()));
  }
}

// Whether operators of this process compute on tensors of the host: register_operators was told "CPU".
bool& host_tensors() {
  static bool value = false;
  return value;
}

void require_device(const Tensor& t, const char* op, const char* what) {
  static const int32_t cuda = aoti_torch_device_type_cuda();
  if (t.device_type() != (host_tensors() ? Device::cpu().type : cuda))
    fail(std::string(op) + ": " + what + " of shape " + shape_text(t) +
         " is not on a CUDA device; move it with .cuda()");
}

int ordinal(Device device) { return std::max(device.index, 0); }

// The rows of an input as kernels read them: dense and aligned. `copy` holds them if they have to be copied.
const void* dense_rows(const Tensor& x, const RowSource& rows, Device device, Tensor* copy) {
  const bool dense = rows.uniform && (rows.rows <= 1 || rows.row_stride == rows.k);
  if (dense && reinterpret_cast<uintptr_t>(x.data()) % kAlignment == 0) return x.data();
  *copy = Tensor::empty(x.dim(), x.sizes(), x.dtype(), device);
  copy->copy_(x);
  return copy->data();
}

// Before memory is allocated for them: more are no grid that a GPU takes.
void require_launchable(const RowSource& rows, const Tensor& x, const char* op) {
  if (rows.rows > gpu::kMostRows || rows.k > gpu::kMostColumns)
    fail(std::string(op) + ": the input has shape " + shape_text(x) + ", and a GPU takes at most " +
         std::to_string(gpu::kMostRows) + " rows of at most " + std::to_string(gpu::kMostColumns) +
         " columns at a time; give fewer");
}

void require_gpu_packed(const Tensor& packed, const Tensor& x, const char* op) {
  static const int32_t u8 = aoti_torch_dtype_uint8();
  if (!(packed.device() == x.device()))
    fail(std::string(op) + ": the input of shape " + shape_text(x) + " is on " + device_text(x.device()) +
         ", and the packed weight of shape " + shape_text(packed) + " on " + device_text(packed.device()) +
         "; move both to one");
  if (packed.dtype() != u8 || packed.dim() != 1 || !packed.contiguous())
    fail(std::string(op) + ": the packed weight must be a contiguous 1-D uint8 tensor, not " +
         dtype_text(packed.dtype()) + " of shape " + shape_text(packed));
  if (reinterpret_cast<uintptr_t>(packed.data()) % kAlignment != 0)
    fail(std::string(op) + ": the packed weight of shape " + shape_text(packed) + " doesn't begin at a multiple of " +
         std::to_string(kAlignment) + " bytes (a view into another tensor?); clone() it");
}

void run(const Call& call) {
  switch (call.form.family) {
    case Form::w8a8:
      return run_w8a8(call);
    case Form::w4a16:
      return run_w4a16(call);
    case Form::sparse24:
      return run_sparse24(call);
    case Form::blocks:
      return run_blocks(call);
    default:
      fail(std::string(call.op) +
           ": the packed weight has an unknown form; move the module with .cuda() to lay it out");
  }
}

Tensor linear(const char* op, const Tensor& x, const Tensor& packed, int64_t n, int64_t activation, int64_t form) {
  require_device(x, op, "the input");
  const RowSource rows = rows_of(x, op);
  require_launchable(rows, x, op);
  require_gpu_packed(packed, x, op);
  if (form == 0)
    fail(std::string(op) + ": the packed weight of shape " + shape_text(packed) +
         " is laid out for the CPU; move its module with .cuda(), which lays it out for the GPU");
  if (n < 1) fail(std::string(op) + ": out_features is " + std::to_string(n) + ", and must be at least 1");
  if (activation < 0 || activation > 5)
    fail(std::string(op) + ": activation code " + std::to_string(activation) + " is unknown; allowed are 0 to 5");
  const Device device = x.device();
  Tensor result;
  const Form parsed = Form::parse(form);
  in_words(op, x, [&] {
    if (rows.rows == 0) {
      result = empty_output(x, rows, n);
      return;
    }
    DriverLauncher launcher(ordinal(device), current_stream(device));
    Tensor copy;
    run({op, launcher, parsed, rows.rows, n, rows.k, x, dense_rows(x, rows, device, &copy),
         static_cast<gpu::DType>(rows.type), static_cast<const uint8_t*>(packed.data()), packed.sizes()[0],
         static_cast<gpu::Activation>(activation), device, result});
  });
  return result;
}

// Each operator is a function of its own, since that is all torch passes on.
template <const char* const* op>
void boxed_linear(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor x = take_tensor(stack[0]), packed = take_tensor(stack[1]);
  stack[0] = give_tensor(linear(*op, x, packed, take_int(stack[2]), take_int(stack[3]), take_int(stack[4])));
}

// Rows to int8 on a GPU, with a norm in front if there is one.
void quantize(const char* op, const Tensor& x, const RowSource& rows, const NormCall* norm, StableIValue* stack) {
  require_launchable(rows, x, op);
  const Device device = x.device();
  std::optional<QuantizedOutput> out;
  in_words(op, x, [&] {
    out.emplace(rows, device);
    if (rows.rows == 0) return;
    DriverLauncher launcher(ordinal(device), current_stream(device));
    if (rows.k == 0) return launcher.zero(out->scales(), rows.rows);
    // The kernel writes four codes at a time: ragged rows go through padded ones.
    static const int32_t i8 = aoti_torch_dtype_int8();
    const int64_t k_pad = (rows.k + 3) / 4 * 4, padded_sizes[] = {rows.rows, k_pad};
    const Tensor padded = k_pad == rows.k ? Tensor() : Tensor::empty(2, padded_sizes, i8, device);
    const auto vector = [](const Tensor& given) { return given ? floats_of(given) : nullptr; };
    Tensor copy;
    const gpu::Quantize call{dense_rows(x, rows, device, &copy),
                             static_cast<gpu::DType>(rows.type),
                             norm ? vector(norm->input_scale) : nullptr,
                             rows.rows,
                             rows.k,
                             k_pad,
                             padded ? static_cast<int8_t*>(padded.data()) : out->codes(),
                             out->scales()};
    if (norm) {
      gpu::norm_quantize(launcher, {nullptr, nullptr, vector(norm->gamma), vector(norm->beta), norm->eps, !norm->rms},
                         call);
    } else {
      gpu::quantize(launcher, call);
    }
    if (padded) out->q.columns(rows.rows, rows.k, rows.k).copy_(padded.columns(rows.rows, rows.k, k_pad));
  });
  out->give(stack);
}

void boxed_quantize(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* op = "quantize_per_token";
  const Tensor x = take_tensor(stack[0]);
  require_device(x, op, "the input");
  quantize(op, x, rows_of(x, op), nullptr, stack);
}

void boxed_norm_quantize(StableIValue* stack, uint64_t, uint64_t) {
  const NormCall call(stack);
  require_device(call.x, NormCall::op, "the input");
  quantize(NormCall::op, call.x, call.checked(), &call, stack);
}

constexpr const char* kW8A8 = "linear_w8a8";
constexpr const char* kW8A16 = "linear_w8a16";
constexpr const char* kW4A16 = "linear_w4a16";
constexpr const char* kSparse = "linear_sparse";

}  // namespace

void* Call::output() const {
  result = empty_output(x_tensor, rows_of(x_tensor, op), n);
  return result.data();
}

Scratch::Scratch(int64_t bytes, Device device) {
  if (bytes == 0) return;
  static const int32_t u8 = aoti_torch_dtype_uint8();
  // Torch's own memory lies on 512 bytes on a GPU, on 64 on the host.
  const int64_t size = bytes + kScratchAlignment - 1;
  memory_ = Tensor::empty(1, &size, u8, device);
  const auto at = reinterpret_cast<uintptr_t>(memory_.data());
  data_ = reinterpret_cast<uint8_t*>((at + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment);
}

void Call::require_bytes(int64_t expected) const {
  if (packed_bytes != expected)
    fail(std::string(op) + ": the packed weight has " + std::to_string(packed_bytes) + " bytes, but one of shape [" +
         std::to_string(n) + ", " + std::to_string(k) + "] in this form has " + std::to_string(expected) +
         ": the input has the wrong width, or the weight is damaged");
}

Stream current_stream(Device device) {
  if (host_tensors()) return nullptr;
  using CurrentStream = AOTITorchError (*)(int32_t device_index, void** stream);
  // Only torch with CUDA has it, in a library that it has loaded by now.
  static const auto current = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<CurrentStream>(library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr);
  }();
  if (current == nullptr) fail("this torch has no CUDA streams: install a build of torch for CUDA");
  void* stream = nullptr;
  check(current(device.index, &stream), "the current stream");
  return static_cast<Stream>(stream);
}

void register_operators(const std::string& key) {
  if (key == "CPU") host_tensors() = true;
  TorchLibraryHandle library = nullptr;  // lives as long as the process, as in library.cpp
  check(aoti_torch_library_init_impl("kdnative", key.c_str(), __FILE_NAME__, __LINE__, &library), "a library");
  const std::pair<const char*, void (*)(StableIValue*, uint64_t, uint64_t)> operators[] = {
      {"quantize_per_token", boxed_quantize}, {NormCall::op, boxed_norm_quantize}, {kW8A8, boxed_linear<&kW8A8>},
      {kW8A16, boxed_linear<&kW8A16>},        {kW4A16, boxed_linear<&kW4A16>},     {kSparse, boxed_linear<&kSparse>},
  };
  for (const auto& [name, function] : operators)
    check(torch_library_impl(library, name, function, kTorchAbiVersion), "an operator");
}

}  // namespace kdnative::cuda
