// Two-level 4-bit weights, over Vec and the 8-bit GEMM of the instruction set.
#include "vec.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "two_level.h"

namespace kdnative::cpu::KDNATIVE_ISA {

void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  gemm_two_level_impl(w, a, e, range, gemm_w8a8);
}

}  // namespace kdnative::cpu::KDNATIVE_ISA
