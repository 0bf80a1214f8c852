// Registration of the operators with torch.
#pragma once

#include "torch_abi.h"

namespace kdnative {

class Library {
 public:
  Library(TorchLibraryHandle definitions, TorchLibraryHandle cpu) : definitions_(definitions), cpu_(cpu) {}

  // Defines an operator by schema and gives it its CPU kernel.
  void op(const char* schema, const char* name, void (*kernel)(StableIValue*, uint64_t, uint64_t)) {
    aoti_torch_library_def(definitions_, schema);
    torch_library_impl(cpu_, name, kernel, kTorchAbiVersion);
  }

 private:
  TorchLibraryHandle definitions_, cpu_;
};

// One function per operator family, each in its own file.
void register_linear(Library& library);
void register_sparse(Library& library);
void register_encoder(Library& library);

}  // namespace kdnative
