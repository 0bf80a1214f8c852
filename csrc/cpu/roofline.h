// What this core can do at best: ceilings that the benchmarks compare kernels with, measured instead of looked up.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kdnative::cpu {

// Most int8 operations per second (a multiply-accumulate counts as two) that the calling thread reached within
// `seconds` with the densest exact signed 8-bit multiply-accumulate sequence of an instruction set, operands in
// registers. 0 when this build or this processor has no such instruction set, or it is "reference".
double peak_int8_ops(const char* isa, double seconds);

// Most bytes per second that the calling thread reached within `seconds` when reading a buffer of `bytes` (at least
// 4096) over and over. The size decides which cache level is measured. 0 when the buffer can't be allocated.
double read_bandwidth(size_t bytes, double seconds);

}  // namespace kdnative::cpu
