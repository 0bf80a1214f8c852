// Operators on a GPU: what they check, where they allocate, and the form in which their weights come.
#pragma once

#include "../cuda/host/device.h"
#include "../cuda/kinds.h"
#include "tensor.h"

namespace kdnative::cuda {

// How a packed weight lies in memory. The host can't read the memory of a GPU, so a packed weight has no header there:
// its sections follow from N, K and this number, which a module hands to the operator (kdnative/formats/gpu/form.py).
struct Form {
  enum Family : int32_t { w8a8 = 1, w4a16 = 2, sparse24 = 3, blocks = 4 };

  int32_t family;
  int32_t bits;
  bool bias, input_scales, zeros;
  int32_t block;   // outputs and inputs of a block, family `blocks` only
  int32_t group;   // inputs that share a scale; 0: one scale for each output
  int64_t stored;  // blocks that aren't left out

  static Form parse(int64_t code) {
    return {static_cast<int32_t>(code & 15),
            static_cast<int32_t>(code >> 4 & 15),
            (code >> 8 & 1) != 0,
            (code >> 9 & 1) != 0,
            (code >> 10 & 1) != 0,
            static_cast<int32_t>(code >> 12 & 15) * 16,
            static_cast<int32_t>(code >> 16 & 4095),
            code >> 28};
  }
};

// One call of a linear operator, checked: [m, k] -> [m, n].
struct Call {
  const char* op;
  gpu::Launcher& launcher;
  Form form;
  int64_t m, n, k;
  const void* x;  // dense rows, aligned to 16 bytes
  gpu::DType type;
  const uint8_t* packed;
  int64_t packed_bytes;
  gpu::Activation activation;
  void* out;
  Device device;

  // What kernels need besides: as long as the tensor lives, and in the order of the stream beyond that.
  Tensor scratch(int64_t bytes) const;
  // Fails unless the packed weight has this many bytes.
  void require_bytes(int64_t expected) const;
};

// Each family of kernels, in a file of its own.
void run_w8a8(const Call& call);

// Registers the operators that have CUDA kernels for torch's dispatch key: "CUDA", or "CPU" where the driver computes
// on the memory of the host. In place of what was registered before.
void register_operators(const std::string& key);

// The stream that torch uses on a device now.
Stream current_stream(Device device);

}  // namespace kdnative::cuda
