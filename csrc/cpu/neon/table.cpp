#include "neon.h"

namespace kdnative::cpu {

const Kernels* neon_kernels() {
  static constexpr Kernels table = {
      .isa = "neon",
      .quantize_rows = neon::quantize_rows,
      .gemm_w8a8 = neon::gemm_w8a8,
      .gemm_w4a8 = neon::gemm_w4a8,
      .gemm_w2a8 = neon::gemm_w2a8,
      .gemm_two_level = neon::gemm_two_level,
      .convert_rows = neon::convert_rows,
      .gemm_a16 = neon::gemm_a16,
      .bf16_rows = 0,
      .layer_norm = neon::layer_norm,
      .attention = neon::attention,
      .add_scaled_int8 = neon::add_scaled_int8,
      .rotate = neon::rotate,
      .gate = neon::gate,
  };
  return &table;
}

}  // namespace kdnative::cpu
