#include "../avx512vnni/avx512vnni.h"
#include "../simd/vec_avx512.h"

// Written against Vec, so it comes after it.
#include "../simd/two_level.h"
#include "amx.h"

namespace kdnative::cpu::amx {
namespace {

constexpr int64_t kVnniRows = 8;  // up to here unpacking for the tiles costs more than it saves

}  // namespace

void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  if (range.m_end - range.m_begin <= kVnniRows) return avx512vnni::gemm_two_level(w, a, e, range);
  gemm_two_level_impl(w, a, e, range, gemm_w8a8);
}

}  // namespace kdnative::cpu::amx
