// Registration of the operators with torch.
#pragma once

#include <vector>

#include "../cpu/origins.h"
#include "torch_abi.h"

namespace kdnative {

struct Operator {
  const char* name;
  std::vector<cpu::KernelUse> kernels;  // what it may call, in the order of their weight
};

// All that are registered.
std::vector<Operator>& operators();

class Library {
 public:
  Library(TorchLibraryHandle definitions, TorchLibraryHandle cpu) : definitions_(definitions), cpu_(cpu) {}

  // Defines an operator by schema and gives it its implementation on the CPU, which calls these kernels.
  void op(const char* schema, const char* name, void (*run)(StableIValue*, uint64_t, uint64_t),
          std::vector<cpu::KernelUse> kernels) {
    aoti_torch_library_def(definitions_, schema);
    torch_library_impl(cpu_, name, run, kTorchAbiVersion);
    operators().push_back({name, std::move(kernels)});
  }

 private:
  TorchLibraryHandle definitions_, cpu_;
};

// One function per operator family, each in its own file.
void register_quantize(Library& library);
void register_linear(Library& library);
void register_sparse(Library& library);
void register_encoder(Library& library);
void register_convnet(Library& library);

}  // namespace kdnative
