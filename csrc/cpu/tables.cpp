// Which kernel each instruction set runs. A table begins as that of the set it extends and replaces what differs.
// Compiled for any machine: making a table must not need its instructions. A build has the kernels of the sets for
// which KDNATIVE_HAS_... is defined; the tables of the others are not used, so the compiler leaves them and their names
// out.
#include "instruction_sets.h"

namespace kdnative::cpu {
namespace {

constexpr Kernels kReference = {
    .isa = "reference",
    .base = nullptr,
    .tile_rows = 1,
    .row_block = 128,
    .quantize_rows = reference::quantize_rows,
    .w8a8_panel_bytes = nullptr,
    .gemm_w8a8 = {reference::gemm_w8a8},
    .gemm_w4a8 = {reference::gemm_w4a8},
    .gemm_w2a8 = {reference::gemm_w2a8},
    .gemm_two_level = {reference::gemm_two_level},
    .convert_rows = reference::convert_rows,
    .gemm_a16 = reference::gemm_a16,
    .bf16_rows = 0,
    .gemm_a16_bf16 = nullptr,
    .arrange_rows = reference::arrange_rows,
    .gemm_blocks = reference::gemm_blocks,
    .expand_mask = reference::expand_mask,
    .mask_rows = 0,
    .gemm_mask = nullptr,
    .layer_norm = reference::layer_norm,
    .attention = reference::attention,
    .add_scaled_int8 = reference::add_scaled_int8,
    .rotate = reference::rotate,
    .gate = reference::gate,
    .conv = reference::conv,
    .depthwise = reference::depthwise,
    .max_window = reference::max_window,
    .average_window = reference::average_window,
    .add_codes = reference::add_codes,
    .multiply_codes = reference::multiply_codes,
    .look_up = reference::look_up,
    .quantize_pixels = reference::quantize_pixels,
    .int8_burst = nullptr,
    .read_all = nullptr,
};

constexpr Kernels extend(const Kernels& base, const char* isa) {
  Kernels table = base;
  table.isa = isa;
  table.base = &base;
  return table;
}

// A GEMM that leaves calls of up to `few_rows` rows to that of the set it extends.
[[maybe_unused]] constexpr Gemm above(int64_t few_rows, GemmFn* kernel, const Gemm& base) {
  return {kernel, few_rows, base.kernel};
}

[[maybe_unused]] constexpr Kernels kAvx2 = [] {
  Kernels t = extend(kReference, "avx2");
  t.quantize_rows = avx2::quantize_rows;
  t.w8a8_panel_bytes = avx2::w8a8_panel_bytes;
  t.gemm_w8a8 = {avx2::gemm_w8a8};
  t.gemm_w4a8 = {avx2::gemm_w4a8};
  t.gemm_w2a8 = {avx2::gemm_w2a8};
  t.gemm_two_level = {avx2::gemm_two_level};
  t.convert_rows = avx2::convert_rows;
  t.gemm_a16 = avx2::gemm_a16;
  t.arrange_rows = avx2::arrange_rows;
  t.gemm_blocks = avx2::gemm_blocks;
  t.expand_mask = avx2::expand_mask;
  t.layer_norm = avx2::layer_norm;
  t.attention = avx2::attention;
  t.add_scaled_int8 = avx2::add_scaled_int8;
  t.rotate = avx2::rotate;
  t.gate = avx2::gate;
  t.conv = avx2::conv;
  t.depthwise = avx2::depthwise;
  t.max_window = avx2::max_window;
  t.average_window = avx2::average_window;
  t.add_codes = avx2::add_codes;
  t.multiply_codes = avx2::multiply_codes;
  t.look_up = avx2::look_up;
  t.quantize_pixels = avx2::quantize_pixels;
  t.int8_burst = avx2::int8_burst;
  t.read_all = avx2::read_all;
  return t;
}();

[[maybe_unused]] constexpr Kernels kAvxVnni = [] {
  Kernels t = extend(kAvx2, "avxvnni");
  t.w8a8_panel_bytes = nullptr;
  t.gemm_w8a8 = {avxvnni::gemm_w8a8};
  t.gemm_w4a8 = {avxvnni::gemm_w4a8};
  t.gemm_w2a8 = {avxvnni::gemm_w2a8};
  t.gemm_two_level = {avxvnni::gemm_two_level};
  t.arrange_rows = avxvnni::arrange_rows;
  t.gemm_blocks = avxvnni::gemm_blocks;
  t.conv = avxvnni::conv;
  t.depthwise = avxvnni::depthwise;
  t.int8_burst = avxvnni::int8_burst;
  return t;
}();

[[maybe_unused]] constexpr Kernels kAvx512Vnni = [] {
  Kernels t = extend(kAvx2, "avx512vnni");
  t.quantize_rows = avx512vnni::quantize_rows;
  t.w8a8_panel_bytes = nullptr;
  t.gemm_w8a8 = {avx512vnni::gemm_w8a8};
  t.gemm_w4a8 = {avx512vnni::gemm_w4a8};
  t.gemm_w2a8 = {avx512vnni::gemm_w2a8};
  t.gemm_two_level = {avx512vnni::gemm_two_level};
  t.convert_rows = avx512vnni::convert_rows;
  t.gemm_a16 = avx512vnni::gemm_a16;
  t.arrange_rows = avx512vnni::arrange_rows;
  t.gemm_blocks = avx512vnni::gemm_blocks;
  t.expand_mask = avx512vnni::expand_mask;
  t.mask_rows = 64;
  t.gemm_mask = avx512vnni::gemm_mask;
  t.layer_norm = avx512vnni::layer_norm;
  t.attention = avx512vnni::attention;
  t.add_scaled_int8 = avx512vnni::add_scaled_int8;
  t.rotate = avx512vnni::rotate;
  t.gate = avx512vnni::gate;
  t.conv = avx512vnni::conv;
  t.depthwise = avx512vnni::depthwise;
  t.max_window = avx512vnni::max_window;
  t.average_window = avx512vnni::average_window;
  t.add_codes = avx512vnni::add_codes;
  t.multiply_codes = avx512vnni::multiply_codes;
  t.look_up = avx512vnni::look_up;
  t.quantize_pixels = avx512vnni::quantize_pixels;
  t.int8_burst = avx512vnni::int8_burst;
  t.read_all = avx512vnni::read_all;
  return t;
}();

[[maybe_unused]] constexpr Kernels kAvx512Bf16 = [] {
  Kernels t = extend(kAvx512Vnni, "avx512bf16");
  t.bf16_rows = 5;
  t.gemm_a16_bf16 = avx512bf16::gemm_a16_bf16;
  t.attention = avx512bf16::attention;
  return t;
}();

[[maybe_unused]] constexpr Kernels kAmx = [] {
  Kernels t = extend(kAvx512Bf16, "amx");
  t.tile_rows = 16;
  t.row_block = 64;
  t.gemm_w8a8 = above(4, amx::gemm_w8a8, t.gemm_w8a8);  // weights of so few rows are read faster than tiles are filled
  t.gemm_w4a8 = above(8, amx::gemm_w4a8, t.gemm_w4a8);  // unpacking for the tiles would cost more than it saves
  t.gemm_w2a8 = above(8, amx::gemm_w2a8, t.gemm_w2a8);
  t.gemm_two_level = above(8, amx::gemm_two_level, t.gemm_two_level);
  t.gemm_a16_bf16 = amx::gemm_a16_bf16;
  t.mask_rows = 8;
  t.attention = amx::attention;
  t.int8_burst = amx::int8_burst;
  return t;
}();

[[maybe_unused]] constexpr Kernels kNeon = [] {
  Kernels t = extend(kReference, "neon");
  t.quantize_rows = neon::quantize_rows;
  t.gemm_w8a8 = {neon::gemm_w8a8};
  t.gemm_w4a8 = {neon::gemm_w4a8};
  t.gemm_w2a8 = {neon::gemm_w2a8};
  t.gemm_two_level = {neon::gemm_two_level};
  t.convert_rows = neon::convert_rows;
  t.gemm_a16 = neon::gemm_a16;
  t.arrange_rows = neon::arrange_rows;
  t.gemm_blocks = neon::gemm_blocks;
  t.expand_mask = neon::expand_mask;
  t.layer_norm = neon::layer_norm;
  t.attention = neon::attention;
  t.add_scaled_int8 = neon::add_scaled_int8;
  t.rotate = neon::rotate;
  t.gate = neon::gate;
  t.conv = neon::conv;
  t.depthwise = neon::depthwise;
  t.max_window = neon::max_window;
  t.average_window = neon::average_window;
  t.add_codes = neon::add_codes;
  t.multiply_codes = neon::multiply_codes;
  t.look_up = neon::look_up;
  t.quantize_pixels = neon::quantize_pixels;
  t.int8_burst = neon::int8_burst;
  t.read_all = neon::read_all;
  return t;
}();

[[maybe_unused]] constexpr Kernels kI8mm = [] {
  Kernels t = extend(kNeon, "i8mm");
  t.tile_rows = 2;
  t.gemm_w8a8 = above(4, i8mm::gemm_w8a8, t.gemm_w8a8);  // making panels would cost more than smmla saves over sdot
  t.gemm_w4a8 = above(4, i8mm::gemm_w4a8, t.gemm_w4a8);
  t.gemm_w2a8 = above(4, i8mm::gemm_w2a8, t.gemm_w2a8);
  t.gemm_two_level = above(4, i8mm::gemm_two_level, t.gemm_two_level);
  t.conv = i8mm::conv;
  t.depthwise = i8mm::depthwise;
  t.int8_burst = i8mm::int8_burst;
  return t;
}();

}  // namespace

const Kernels* reference_kernels() { return &kReference; }

const std::vector<const Kernels*>& built_kernels() {
  static const std::vector<const Kernels*> all = {
      &kReference,
#if defined(KDNATIVE_HAS_avx2)
      &kAvx2,
#endif
#if defined(KDNATIVE_HAS_avxvnni)
      &kAvxVnni,
#endif
#if defined(KDNATIVE_HAS_avx512vnni)
      &kAvx512Vnni,
#endif
#if defined(KDNATIVE_HAS_avx512bf16)
      &kAvx512Bf16,
#endif
#if defined(KDNATIVE_HAS_amx)
      &kAmx,
#endif
#if defined(KDNATIVE_HAS_neon)
      &kNeon,
#endif
#if defined(KDNATIVE_HAS_i8mm)
      &kI8mm,
#endif
  };
  return all;
}

}  // namespace kdnative::cpu
