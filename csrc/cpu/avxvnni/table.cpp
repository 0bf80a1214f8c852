#include "../avx2/avx2.h"
#include "avxvnni.h"

namespace kdnative::cpu {

const Kernels* avxvnni_kernels() {
  static constexpr Kernels table = {
      .isa = "avxvnni",
      .quantize_rows = avx2::quantize_rows,
      .tile_rows = 1,
      .row_block = 128,
      .w8a8_panel_bytes = nullptr,
      .gemm_w8a8 = avxvnni::gemm_w8a8,
      .gemm_w4a8 = avxvnni::gemm_w4a8,
      .gemm_w2a8 = avxvnni::gemm_w2a8,
      .gemm_two_level = avxvnni::gemm_two_level,
      .convert_rows = avx2::convert_rows,
      .gemm_a16 = avx2::gemm_a16,
      .bf16_rows = 0,
      .arrange_rows = avxvnni::arrange_rows,
      .gemm_blocks = avxvnni::gemm_blocks,
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
