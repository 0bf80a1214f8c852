// The instruction of the VNNI kernels in simd/gemm_vnni.h, and how many rows its registers hold.
#pragma once

#include "../simd/vec_avx512.h"
// Ints is written against Vec and comes after it.
#include "../simd/ints_avx512.h"

namespace kdnative::cpu::avx512vnni {
namespace {

struct Dot {
  static constexpr int kRows = 8;                       // 16 accumulators
  static constexpr int grouped_rows(int) { return 6; }  // 12 integer and 12 float accumulators

  // The empty statement keeps the sum in its register: left alone, GCC moves every accumulator to another register and
  // back in each step, which costs more issue slots than the products.
  static Ints add_products(Ints sum, Ints u, Ints s) {
    sum.v = _mm512_dpbusd_epi32(sum.v, u.v, s.v);
    __asm__ volatile("" : "+v"(sum.v));
    return sum;
  }
};

}  // namespace
}  // namespace kdnative::cpu::avx512vnni
