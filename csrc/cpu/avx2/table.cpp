#include "avx2.h"

namespace kdnative::cpu {

const Kernels* avx2_kernels() {
  static constexpr Kernels table = {
      .isa = "avx2",
      .quantize_rows = avx2::quantize_rows,
      .tile_rows = 1,
      .row_block = 128,
      .w8a8_panel_bytes = avx2::w8a8_panel_bytes,
      .gemm_w8a8 = avx2::gemm_w8a8,
      .gemm_w4a8 = avx2::gemm_w4a8,
      .gemm_w2a8 = avx2::gemm_w2a8,
      .gemm_two_level = avx2::gemm_two_level,
      .convert_rows = avx2::convert_rows,
      .gemm_a16 = avx2::gemm_a16,
      .bf16_rows = 0,
      .arrange_rows = avx2::arrange_rows,
      .gemm_blocks = avx2::gemm_blocks,
      .expand_mask = avx2::expand_mask,
      .expand_codes = avx2::expand_codes,
      .mask_rows = 0,
      .gemm_mask = nullptr,
      .layer_norm = avx2::layer_norm,
      .attention = avx2::attention,
      .add_scaled_int8 = avx2::add_scaled_int8,
      .rotate = avx2::rotate,
      .gate = avx2::gate,
  };
  return &table;
}

}  // namespace kdnative::cpu
