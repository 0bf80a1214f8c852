// The dialect: what a kernel may ask of the GPU, one function for each PTX instruction. NVRTC and nvcc compile a
// function to the instruction that its comment names (gpu/*.h); a C++ compiler to its meaning in software
// (tests/gpu/emulator/*.h, found by an include path). Shared memory is reached by 32-bit addresses alone and global
// memory by functions alone, so that a kernel touches nothing unseen. docs/gpu_testing.md says more.
#pragma once

#include "gpu/values.h"

#ifdef __CUDACC__
#include "gpu/arithmetic.h"
#include "gpu/convert.h"
#include "gpu/copy.h"
#include "gpu/matrix.h"
#include "gpu/memory.h"
#include "gpu/threads.h"
#else
#include "emulator/arithmetic.h"
#include "emulator/convert.h"
#include "emulator/copy.h"
#include "emulator/matrix.h"
#include "emulator/memory.h"
#include "emulator/threads.h"
#endif
