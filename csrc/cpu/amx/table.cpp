#include "../avx512vnni/avx512vnni.h"
#include "amx.h"

namespace kdnative::cpu {

const Kernels* amx_kernels() {
  static constexpr Kernels table = {
      .isa = "amx",
      .quantize_rows = avx512vnni::quantize_rows,
      .tile_rows = 16,
      .row_block = 64,
      .w8a8_panel_bytes = nullptr,
      .gemm_w8a8 = amx::gemm_w8a8,
      .gemm_w4a8 = amx::gemm_w4a8,
      .gemm_w2a8 = amx::gemm_w2a8,
      .gemm_two_level = amx::gemm_two_level,
      .convert_rows = avx512vnni::convert_rows,
      .gemm_a16 = amx::gemm_a16,
      .bf16_rows = 5,
      .arrange_rows = avx512vnni::arrange_rows,
      .gemm_blocks = avx512vnni::gemm_blocks,
      .expand_mask = avx512vnni::expand_mask,
      .expand_codes = avx512vnni::expand_codes,
      .mask_rows = 8,
      .gemm_mask = avx512vnni::gemm_mask,
      .layer_norm = avx512vnni::layer_norm,
      .attention = amx::attention,
      .add_scaled_int8 = avx512vnni::add_scaled_int8,
      .rotate = avx512vnni::rotate,
      .gate = avx512vnni::gate,
  };
  return &table;
}

}  // namespace kdnative::cpu
