// vpdpbusd, bare and as the policy of the kernels in simd/gemm_vnni.h.
#pragma once

#include "../simd/vec_avx512.h"
// Ints is written against Vec and comes after it.
#include "../simd/ints_avx512.h"

namespace kdnative::cpu::avx512vnni {
namespace {

// sum + the dot products of four unsigned bytes of u and four signed bytes of s in every lane.
//
// The empty statement keeps the sum in its register: left alone, GCC moves every accumulator to another register and
// back in each step, which costs more issue slots than the products.
inline __m512i add_products(__m512i sum, __m512i u, __m512i s) {
  sum = _mm512_dpbusd_epi32(sum, u, s);
  __asm__ volatile("" : "+v"(sum));
  return sum;
}

struct Dot {
  static constexpr int kRows = 8;                       // 16 accumulators
  static constexpr int grouped_rows(int) { return 6; }  // 12 integer and 12 float accumulators
  static constexpr int kVectorRows = 2;
  static Ints add_products(Ints sum, Ints u, Ints s) { return {avx512vnni::add_products(sum.v, u.v, s.v)}; }
};

}  // namespace
}  // namespace kdnative::cpu::avx512vnni
