// GEMMs with vpdpbusd of AVX-VNNI: 256 bits, no AVX-512.
#include "dot.h"
// These are written against Vec and Ints and come after them.
#include "../instruction_sets.h"
#include "../simd/gemm_vnni.h"

namespace kdnative::cpu::avxvnni {

void gemm_w8a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  vnni_w8a8<Dot>(w, a, e, range);
}

void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  vnni_grouped<Dot, 4>(w, a, e, range);
}

void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  vnni_grouped<Dot, 2>(w, a, e, range);
}

void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  grouped_gemm<VnniProducts<Dot>, 4, true>(w, a, e, range);
}

}  // namespace kdnative::cpu::avxvnni
