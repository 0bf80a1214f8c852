// 4-bit and 2-bit weights x int8 on AVX2.
//
// The codes u in [0, 2^bits) are the unsigned operand of vpmaddubsw as they are. A pair is at most 2 * 15 * 127 = 3810,
// so the pairs of 32 columns of k (8 steps) add up to at most 30480 in 16 bits before they are widened.
#include "../simd/vec_avx2.h"
// These are written against Vec and come after it.
#include "../simd/ints_avx2.h"
// This is written against Vec and Ints.
#include "../instruction_sets.h"
#include "../simd/gemm_grouped.h"

namespace kdnative::cpu::avx2 {
namespace {

struct Products {
  static constexpr int grouped_rows(int) { return 3; }
  static constexpr int chains(int) { return 1; }

  // The empty statement keeps GCC from computing the products of all rows first: they would not fit the registers
  // beside the sums. A function of the value, not of a reference: that would keep the sums in memory.
  static __m256i add_words(__m256i sum, __m256i words) {
    sum = _mm256_add_epi16(sum, words);
    __asm__ volatile("" : "+x"(sum));
    return sum;
  }

  template <int bits, int rows>
  static void multiply_codes(const uint8_t* codes, const int8_t* q, int64_t ld_q, int64_t columns,
                             Ints (&dot)[1][rows][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t k = 0; k < columns; k += 32) {
      __m256i part[rows][2];
      for (int i = 0; i < rows; ++i) part[i][0] = part[i][1] = _mm256_setzero_si256();
      for (int64_t eight = k; eight < k + 32; eight += 8) {
        for (int64_t s = eight; s < eight + 8; s += 4 * kQuads<bits>) {
          Ints u[kQuads<bits>][2];
          decode<bits>(Ints::load(codes + s * 4 * bits), u);
          for (int t = 0; t < kQuads<bits>; ++t) {
            for (int i = 0; i < rows; ++i) {
              const __m256i x = _mm256_set1_epi32(load_quad(q + i * ld_q + s + 4 * t));
              part[i][0] = add_words(part[i][0], _mm256_maddubs_epi16(u[t][0].v, x));
              part[i][1] = add_words(part[i][1], _mm256_maddubs_epi16(u[t][1].v, x));
            }
          }
        }
      }
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < 2; ++j) dot[0][i][j] = dot[0][i][j] + Ints{_mm256_madd_epi16(part[i][j], ones)};
    }
  }
};

}  // namespace

void gemm_w4a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  grouped_gemm<Products, 4>(w, a, e, range);
}

void gemm_w2a8(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  grouped_gemm<Products, 2>(w, a, e, range);
}

void gemm_two_level(const PackedLinear& w, const QuantizedRows& a, const Epilogue& e, const GemmRange& range) {
  grouped_gemm<Products, 4, true>(w, a, e, range);
}

}  // namespace kdnative::cpu::avx2
