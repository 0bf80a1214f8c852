#include "../neon/neon.h"
#include "../reference/reference.h"
#include "i8mm.h"

namespace kdnative::cpu {

const Kernels* i8mm_kernels() {
  static constexpr Kernels table = {
      .isa = "i8mm",
      .quantize_rows = neon::quantize_rows,
      .tile_rows = 2,
      .row_block = 128,
      .w8a8_panel_bytes = nullptr,
      .gemm_w8a8 = i8mm::gemm_w8a8,
      .gemm_w4a8 = i8mm::gemm_w4a8,
      .gemm_w2a8 = i8mm::gemm_w2a8,
      .gemm_two_level = i8mm::gemm_two_level,
      .convert_rows = neon::convert_rows,
      .gemm_a16 = neon::gemm_a16,
      .bf16_rows = 0,
      .arrange_rows = reference::arrange_rows,
      .gemm_blocks = reference::gemm_blocks,
      .expand_mask = reference::expand_mask,
      .expand_codes = reference::expand_codes,
      .mask_rows = 0,
      .gemm_mask = nullptr,
      .layer_norm = neon::layer_norm,
      .attention = neon::attention,
      .add_scaled_int8 = neon::add_scaled_int8,
      .rotate = neon::rotate,
      .gate = neon::gate,
  };
  return &table;
}

}  // namespace kdnative::cpu
