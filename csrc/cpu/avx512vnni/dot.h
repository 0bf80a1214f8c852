// One step of the VNNI kernels.
#pragma once

#include <immintrin.h>

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

}  // namespace
}  // namespace kdnative::cpu::avx512vnni
