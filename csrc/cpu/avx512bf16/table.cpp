#include "../avx512vnni/avx512vnni.h"
#include "avx512bf16.h"

namespace kdnative::cpu {

const Kernels* avx512bf16_kernels() {
  static constexpr Kernels table = {
      .isa = "avx512bf16",
      .quantize_rows = avx512vnni::quantize_rows,
      .tile_rows = 1,
      .row_block = 128,
      .w8a8_panel_bytes = nullptr,
      .gemm_w8a8 = avx512vnni::gemm_w8a8,
      .gemm_w4a8 = avx512vnni::gemm_w4a8,
      .gemm_w2a8 = avx512vnni::gemm_w2a8,
      .gemm_two_level = avx512vnni::gemm_two_level,
      .convert_rows = avx512vnni::convert_rows,
      .gemm_a16 = avx512bf16::gemm_a16,
      .bf16_rows = 5,
      .arrange_rows = avx512vnni::arrange_rows,
      .gemm_blocks = avx512vnni::gemm_blocks,
      .expand_mask = avx512vnni::expand_mask,
      .expand_codes = avx512vnni::expand_codes,
      .mask_rows = 64,
      .gemm_mask = avx512vnni::gemm_mask,
      .layer_norm = avx512vnni::layer_norm,
      .attention = avx512bf16::attention,
      .add_scaled_int8 = avx512vnni::add_scaled_int8,
      .rotate = avx512vnni::rotate,
      .gate = avx512vnni::gate,
  };
  return &table;
}

}  // namespace kdnative::cpu
