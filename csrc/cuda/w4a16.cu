// Kernels with 4-bit and 8-bit weights and float activations: see w4a16.h for the names.
#include "w4a16_gemm.cuh"
#include "w4a16_gemv.cuh"
#include "w4a16_rows.cuh"

using namespace gpu;

#define GEMM(name, T, bits, tiles_m, warps_m, stages, blocks)                                                        \
  extern "C" GPU_KERNEL(128 * warps_m, blocks)                                                                       \
      name(const void* x, const uint8_t* codes, const float* scale, const uint8_t* zeros, const float* bias,         \
           const void* residual, void* out, float* partial, uint32_t* counters, int type, int whole, int activation, \
           int m, int n, int k, int group_shift, int each) {                                                         \
    const W4A16Output output{bias,  residual, out, type == static_cast<int>(DType::f32),                             \
                             whole, m,        n,   static_cast<Activation>(activation)};                             \
    W4A16Gemm<T, bits, tiles_m, warps_m, stages>{x,        codes, scale, zeros, output,      partial,                \
                                                 counters, m,     n,     k,     group_shift, each}                   \
        .run();                                                                                                      \
  }

#define GEMV(name, T, bits)                                                                                         \
  extern "C" GPU_KERNEL(256, 2)                                                                                     \
      name(const void* x, const uint8_t* codes, const float* scale, const uint8_t* zeros, const float* input_scale, \
           const float* bias, const void* residual, void* out, float* partial, uint32_t* counters, int type,        \
           int paired, int whole, int activation, int m, int n, int k, int group_shift, int each) {                 \
    const W4A16Rows rows{x, static_cast<DType>(type), paired, input_scale, k};                                      \
    const W4A16Output output{bias,  residual, out, type == static_cast<int>(DType::f32),                            \
                             whole, m,        n,   static_cast<Activation>(activation)};                            \
    W4A16Gemv<T, bits>{rows, codes, scale, zeros, output, partial, counters, m, n, group_shift, each}.run();        \
  }

#define DEQUANTIZE(name, T, bits)                                                                              \
  extern "C" GPU_KERNEL(256, 2) name(const uint8_t* codes, const float* scale, const uint8_t* zeros,           \
                                     const float* input_scale, void* out, int n, int k, int group_shift) {     \
    W4A16Dequantize<T, bits>{codes, scale, zeros, input_scale, static_cast<T*>(out), n, k, group_shift}.run(); \
  }

#define ROWS(name, T)                                                                                          \
  extern "C" GPU_KERNEL(256, 2)                                                                                \
      name(const void* x, const float* input_scale, void* out, int type, int paired, int k, int ld_out) {      \
    w4a16_rows<T>(W4A16Rows{x, static_cast<DType>(type), paired, input_scale, k}, static_cast<uint32_t*>(out), \
                  ld_out);                                                                                     \
  }

#define ALL(bits, T, type)                                \
  GEMM(w##bits##a16_gemm_128_##type, T, bits, 4, 2, 4, 1) \
  GEMM(w##bits##a16_gemm_64_##type, T, bits, 4, 1, 3, 2)  \
  GEMM(w##bits##a16_gemm_16_##type, T, bits, 1, 1, 4, 3)  \
  GEMV(w##bits##a16_gemv_##type, T, bits)                 \
  DEQUANTIZE(w##bits##a16_dequantize_##type, T, bits)

ALL(4, Half, f16)
ALL(4, Bf16, bf16)
ALL(8, Half, f16)
ALL(8, Bf16, bf16)
ROWS(w4a16_rows_f16, Half)
ROWS(w4a16_rows_bf16, Bf16)
