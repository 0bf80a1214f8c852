#include "cuda.h"

namespace kdnative::cuda {
void run_w8a8(const Call&) { fail("to come"); }
void quantize_rows(gpu::Launcher&, const void*, gpu::DType, int64_t, int64_t, int8_t*, float*) { fail("to come"); }
}  // namespace kdnative::cuda
