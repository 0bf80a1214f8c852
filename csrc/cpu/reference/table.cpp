#include "reference.h"

namespace kdnative::cpu {

const Kernels* reference_kernels() {
  static constexpr Kernels table = {
      .isa = "reference",
      .quantize_rows = reference::quantize_rows,
      .tile_rows = 1,
      .row_block = 128,
      .w8a8_panel_bytes = nullptr,
      .gemm_w8a8 = reference::gemm_w8a8,
      .gemm_w4a8 = reference::gemm_w4a8,
      .gemm_w2a8 = reference::gemm_w2a8,
      .gemm_two_level = reference::gemm_two_level,
      .convert_rows = reference::convert_rows,
      .gemm_a16 = reference::gemm_a16,
      .bf16_rows = 0,
      .arrange_rows = reference::arrange_rows,
      .gemm_blocks = reference::gemm_blocks,
      .expand_mask = reference::expand_mask,
      .expand_codes = reference::expand_codes,
      .mask_rows = 0,
      .gemm_mask = nullptr,
      .layer_norm = reference::layer_norm,
      .attention = reference::attention,
      .add_scaled_int8 = reference::add_scaled_int8,
      .rotate = reference::rotate,
      .gate = reference::gate,
  };
  return &table;
}

}  // namespace kdnative::cpu
