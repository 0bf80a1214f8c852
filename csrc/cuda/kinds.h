// Types and activations as kernels and the code that launches them name them, with the numbers of csrc/cpu/kernels.h.
// Both sides include this, so nothing of a library is included here.
#pragma once

namespace gpu {

enum class DType : int { f32 = 0, bf16 = 1, f16 = 2 };

enum class Activation : int { none = 0, relu = 1, gelu_erf = 2, gelu_tanh = 3, silu = 4, tanh = 5 };

}  // namespace gpu
