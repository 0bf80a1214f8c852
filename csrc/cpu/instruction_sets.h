// The kernels that the folders of the instruction sets define, by the types of kernels.h. A set defines what it has a
// kernel of its own for; tables.cpp decides what runs.
#pragma once

#include "kernels.h"

#define KDNATIVE_INSTRUCTION_SET(isa)                     \
  namespace isa {                                         \
  QuantizeRowsFn quantize_rows;                           \
  PanelBytesFn w8a8_panel_bytes;                          \
  GemmFn gemm_w8a8, gemm_w4a8, gemm_w2a8, gemm_two_level; \
  ConvertRowsFn convert_rows;                             \
  GemmFloatFn gemm_a16, gemm_a16_bf16;                    \
  ArrangeRowsFn arrange_rows;                             \
  GemmBlocksFn gemm_blocks;                               \
  ExpandMaskFn expand_mask;                               \
  GemmMaskFn gemm_mask;                                   \
  LayerNormFn layer_norm;                                 \
  AttentionFn attention;                                  \
  AddScaledInt8Fn add_scaled_int8;                        \
  RotateFn rotate;                                        \
  GateFn gate;                                            \
  ConvFn conv;                                            \
  DepthwiseFn depthwise;                                  \
  MaxWindowFn max_window;                                 \
  AverageWindowFn average_window;                         \
  AddCodesFn add_codes;                                   \
  MultiplyCodesFn multiply_codes;                         \
  LookUpFn look_up;                                       \
  QuantizePixelsFn quantize_pixels;                       \
  BurstFn int8_burst;                                     \
  ReadAllFn read_all;                                     \
  }

namespace kdnative::cpu {

KDNATIVE_INSTRUCTION_SET(reference)
KDNATIVE_INSTRUCTION_SET(avx2)
KDNATIVE_INSTRUCTION_SET(avxvnni)
KDNATIVE_INSTRUCTION_SET(avx512vnni)
KDNATIVE_INSTRUCTION_SET(avx512bf16)
KDNATIVE_INSTRUCTION_SET(amx)
KDNATIVE_INSTRUCTION_SET(neon)
KDNATIVE_INSTRUCTION_SET(i8mm)

}  // namespace kdnative::cpu
