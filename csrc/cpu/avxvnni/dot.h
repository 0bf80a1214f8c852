// The instruction of the VNNI kernels in simd/gemm_vnni.h, and how many rows its sixteen registers hold.
#pragma once

#include "../simd/vec_avx2.h"
// Ints is written against Vec and comes after it.
#include "../simd/ints_avx2.h"

namespace kdnative::cpu::avxvnni {
namespace {

struct Dot {
  static constexpr int kRows = 6;  // 12 accumulators
  // 12 integer accumulators, or 10 beside the four operands of 2-bit codes; the float ones wait in memory during a
  // group.
  static constexpr int grouped_rows(int bits) { return bits == 2 ? 5 : 6; }
  static constexpr int kVectorRows = 1;

  // The empty statement keeps the sum in its register: left alone, GCC moves accumulators to another register and back.
  static Ints add_products(Ints sum, Ints u, Ints s) {
    sum.v = _mm256_dpbusd_avx_epi32(sum.v, u.v, s.v);
    __asm__ volatile("" : "+x"(sum.v));
    return sum;
  }
};

}  // namespace
}  // namespace kdnative::cpu::avxvnni
