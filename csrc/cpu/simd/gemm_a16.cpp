// Packed weights x float activations over Vec.
#include "vec.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "gemm_a16.h"

namespace kdnative::cpu::KDNATIVE_ISA {
namespace {

template <typename Inputs>
inline void convert_inputs(const Inputs& in, int64_t ld_x, int64_t rows, int64_t k, void* out, DType out_type,
                           int64_t ld_out) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < ld_out; c += Vec::width) {
      const Vec v = c + Vec::width <= k ? in.load(r * ld_x, c) : in.load(r * ld_x, c, k - c);
      if (c + Vec::width <= ld_out) {
        store_as(out_type, out, r * ld_out + c, v);
      } else {
        store_as(out_type, out, r * ld_out + c, v, ld_out - c);
      }
    }
  }
}

}  // namespace

void convert_rows(const void* x, DType type, int64_t ld_x, const float* input_scale, int64_t rows, int64_t k, void* out,
                  DType out_type, int64_t ld_out) {
  with_inputs(x, type, input_scale, [&](const auto& in) { convert_inputs(in, ld_x, rows, k, out, out_type, ld_out); });
}

void gemm_a16(const PackedLinear& w, const FloatRows& a, const Epilogue& e, const GemmRange& range) {
  (w.bits == 8 ? gemm_a16_of<8> : w.bits == 4 ? gemm_a16_of<4> : gemm_a16_of<2>)(w, a, e, range);
}

}  // namespace kdnative::cpu::KDNATIVE_ISA
