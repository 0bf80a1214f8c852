// GEMMs with vpdpbusd of AVX-512 VNNI.
#include "dot.h"
// These are written against Vec and Ints and come after them.
#include "../instruction_sets.h"
#include "../simd/gemm_vnni.h"

namespace kdnative::cpu::avx512vnni {

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  vnni_w8a8<Dot>(w, a, e, range);
}

void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  vnni_grouped<Dot, 4>(w, a, e, range);
}

void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  vnni_grouped<Dot, 2>(w, a, e, range);
}

}  // namespace kdnative::cpu::avx512vnni
