#include "avx512vnni.h"

namespace kdnative::cpu {

const Kernels* avx512vnni_kernels() {
  static constexpr Kernels table = {
      .isa = "avx512vnni",
      .quantize_rows = avx512vnni::quantize_rows,
      .gemm_w8a8 = avx512vnni::gemm_w8a8,
      .gemm_w4a8 = avx512vnni::gemm_w4a8,
      .gemm_w2a8 = avx512vnni::gemm_w2a8,
      .gemm_two_level = avx512vnni::gemm_two_level,
      .convert_rows = avx512vnni::convert_rows,
      .gemm_a16 = avx512vnni::gemm_a16,
      .bf16_rows = 0,
      .layer_norm = avx512vnni::layer_norm,
      .attention = avx512vnni::attention,
      .add_scaled_int8 = avx512vnni::add_scaled_int8,
      .rotate = avx512vnni::rotate,
      .gate = avx512vnni::gate,
  };
  return &table;
}

}  // namespace kdnative::cpu
