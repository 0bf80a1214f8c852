#include "reference.h"

namespace kdnative::cpu {

const Kernels* reference_kernels() {
  static const Kernels table = {
      "reference",           reference::quantize_rows, reference::gemm_w8a8,       reference::gemm_w4a8,
      reference::layer_norm, reference::attention,     reference::add_scaled_int8,
  };
  return &table;
}

}  // namespace kdnative::cpu
