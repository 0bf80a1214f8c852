// Attention on the dot products of bf16 pairs (AVX512_BF16).
#include "../simd/vec_avx512.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "attention_bf16.h"
#include "multiply.h"

namespace kdnative::cpu::avx512bf16 {
namespace {

constexpr int64_t kQueryRows = 16;  // their scores and weights stay in L1 beside the keys of a short sequence

}  // namespace

void attention(const AttentionArgs& a, int32_t head_begin, int32_t head_end) {
  attention_bf16(a, head_begin, head_end, kQueryRows, multiply<8>);
}

}  // namespace kdnative::cpu::avx512bf16
