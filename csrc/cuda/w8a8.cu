// The kernels of the family w8a8: a tile of w8a8.cuh for each type of output. w8a8.h chooses among them.
#include "w8a8.cuh"

// `short`: a stage less waits in shared memory, so that two blocks fit into the 100 KiB of sm_86 and sm_89.
using W8A8_128x128 = gpu::W8A8Tile<128, 128, 64, 2, 4, 1, 4>;
using W8A8_128x128_short = gpu::W8A8Tile<128, 128, 64, 2, 4, 1, 3>;
using W8A8_64x64 = gpu::W8A8Tile<64, 64, 64, 2, 2, 1, 4>;
using W8A8_64x32 = gpu::W8A8Tile<64, 32, 128, 2, 1, 2, 4>;
using W8A8_16x32 = gpu::W8A8Tile<16, 32, 128, 1, 1, 4, 6>;

#define W8A8_ARGUMENTS(T)                                                                                             \
  const int8_t *x, const float *scale_x, const int8_t *w, const float *scale_w, const float *bias, const T *residual, \
      T *out, int m, int n, int k_pad, int activation, int whole
#define W8A8_GIVEN x, scale_x, w, scale_w, bias, residual, out, m, n, k_pad, activation, whole

extern "C" GPU_KERNEL(W8A8_128x128::kThreads, 2) w8a8_128x128_f32(W8A8_ARGUMENTS(float)) {
  W8A8_128x128::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_128x128::kThreads, 2) w8a8_128x128_bf16(W8A8_ARGUMENTS(gpu::Bf16)) {
  W8A8_128x128::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_128x128::kThreads, 2) w8a8_128x128_f16(W8A8_ARGUMENTS(gpu::Half)) {
  W8A8_128x128::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_128x128_short::kThreads, 2) w8a8_128x128_short_f32(W8A8_ARGUMENTS(float)) {
  W8A8_128x128_short::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_128x128_short::kThreads, 2) w8a8_128x128_short_bf16(W8A8_ARGUMENTS(gpu::Bf16)) {
  W8A8_128x128_short::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_128x128_short::kThreads, 2) w8a8_128x128_short_f16(W8A8_ARGUMENTS(gpu::Half)) {
  W8A8_128x128_short::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_64x64::kThreads, 4) w8a8_64x64_f32(W8A8_ARGUMENTS(float)) {
  W8A8_64x64::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_64x64::kThreads, 4) w8a8_64x64_bf16(W8A8_ARGUMENTS(gpu::Bf16)) {
  W8A8_64x64::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_64x64::kThreads, 4) w8a8_64x64_f16(W8A8_ARGUMENTS(gpu::Half)) {
  W8A8_64x64::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_64x32::kThreads, 4) w8a8_64x32_f32(W8A8_ARGUMENTS(float)) {
  W8A8_64x32::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_64x32::kThreads, 4) w8a8_64x32_bf16(W8A8_ARGUMENTS(gpu::Bf16)) {
  W8A8_64x32::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_64x32::kThreads, 4) w8a8_64x32_f16(W8A8_ARGUMENTS(gpu::Half)) {
  W8A8_64x32::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_16x32::kThreads, 4) w8a8_16x32_f32(W8A8_ARGUMENTS(float)) {
  W8A8_16x32::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_16x32::kThreads, 4) w8a8_16x32_bf16(W8A8_ARGUMENTS(gpu::Bf16)) {
  W8A8_16x32::product(W8A8_GIVEN);
}
extern "C" GPU_KERNEL(W8A8_16x32::kThreads, 4) w8a8_16x32_f16(W8A8_ARGUMENTS(gpu::Half)) {
  W8A8_16x32::product(W8A8_GIVEN);
}
