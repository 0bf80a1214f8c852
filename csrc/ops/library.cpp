#include "library.h"

namespace kdnative {
namespace {

// Runs when the shared library is loaded; torch is loaded before it (kdnative/ops imports torch first). The handles
// live as long as the process: releasing them at exit would race with torch's own teardown.
const bool registered = [] {
  TorchLibraryHandle definitions = nullptr, cpu = nullptr;
  aoti_torch_library_init_def("kdnative", __FILE_NAME__, __LINE__, &definitions);
  aoti_torch_library_init_impl("kdnative", "CPU", __FILE_NAME__, __LINE__, &cpu);
  Library library(definitions, cpu);
  register_quantize(library);
  register_linear(library);
  register_sparse(library);
  register_encoder(library);
  register_convnet(library);
  return true;
}();

}  // namespace

std::vector<Operator>& operators() {
  static std::vector<Operator> all;
  return all;
}

}  // namespace kdnative
