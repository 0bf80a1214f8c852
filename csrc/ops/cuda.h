// Operators on a GPU: what they check, where they allocate, and the form in which their weights come.
#pragma once

#include "../cuda/host/device.h"
#include "../cuda/int8_product.h"
#include "tensor.h"

namespace kdnative::cuda {

// How a packed weight lies in memory. The host can't read the memory of a GPU, so a packed weight has no header there:
// its sections follow from N, K and this number, which a module hands to the operator (kdnative/formats/gpu/form.py).
struct Form {
  enum Family : int32_t { w8a8 = 1, w4a16 = 2, sparse24 = 3, blocks = 4 };

  int32_t family;
  int32_t bits;
  bool bias, input_scales, zeros;
  int32_t block;  // outputs and inputs of a block, family `blocks` only
  int32_t group;  // inputs that share a scale; 0: one scale for each output

  static Form parse(int64_t code) {
    return {static_cast<int32_t>(code & 15),
            static_cast<int32_t>(code >> 4 & 15),
            (code >> 8 & 1) != 0,
            (code >> 9 & 1) != 0,
            (code >> 10 & 1) != 0,
            static_cast<int32_t>(code >> 12 & 15) * 16,
            static_cast<int32_t>(code >> 16 & 4095)};
  }
};

// Memory on 256 bytes, none for 0 of them: as long as this lives, and in the order of the stream beyond that.
class Scratch {
 public:
  Scratch() = default;
  Scratch(int64_t bytes, Device device);
  uint8_t* data() const { return data_; }

 private:
  Tensor memory_;
  uint8_t* data_ = nullptr;
};

// One call of a linear operator, checked: [m, k] -> [m, n].
struct Call {
  const char* op;
  DriverLauncher& launcher;
  Form form;
  int64_t m, n, k;
  const Tensor& x_tensor;  // as it was given
  const void* x;           // its rows, dense and aligned to 16 bytes
  gpu::DType type;
  const uint8_t* packed;  // on 16 bytes
  int64_t packed_bytes;
  gpu::Activation activation;
  Device device;
  Tensor& result;  // [..., n], what the operator returns

  // The memory of the result, which is allocated now.
  void* output() const;
  // A section of the packed weight; below 0: there is none.
  const float* floats(int64_t at) const { return at < 0 ? nullptr : reinterpret_cast<const float*>(packed + at); }
  // Fails unless the packed weight has this many bytes.
  void require_bytes(int64_t expected) const;
};

// The rows of a call as int8, each k_pad codes with zeros behind, and their scales.
struct QuantizedRows {
  int64_t k_pad;
  int8_t* q;
  float* scale;

  QuantizedRows(const Call& call, const float* input_scale);  // fails for more than sums of int32 hold
  // Their product with a weight whose scale and bias (below 0: none) are these sections of the packed one.
  gpu::Int8Product product(const Call& call, int64_t scale_at, int64_t bias_at) const;

 private:
  Scratch memory_;
};

// Each family of kernels, in a file of its own.
void run_w8a8(const Call& call);
void run_w4a16(const Call& call);
void run_sparse24(const Call& call);
void run_blocks(const Call& call);

// Registers the operators that have CUDA kernels for torch's dispatch key: "CUDA", or "CPU" where the driver computes
// on the memory of the host. In place of what was registered before.
void register_operators(const std::string& key);

// The stream that torch uses on a device now.
Stream current_stream(Device device);

}  // namespace kdnative::cuda
