// What this processor and operating system can run.
#pragma once

namespace kdnative::cpu {

struct Features {
  bool avx2 = false;          // AVX2 + FMA + F16C, and the OS saves the registers
  bool avxvnni = false;       // avx2 + AVX-VNNI: dot products of bytes in 256-bit registers
  bool avx512vnni = false;    // AVX-512 F, BW, VL, DQ, VNNI
  bool avx512vbmi2 = false;   // avx512vnni + VBMI and VBMI2: bytes by permutation and expansion
  bool avx512halves = false;  // 512-bit instructions take a 256-bit unit twice (AMD Zen 4)
  bool avx512bf16 = false;    // avx512vnni + dot products of bf16
  bool amx = false;           // avx512bf16 + AMX tile, int8 and bf16, and the OS granted the tile state to this process
  bool neon = false;          // AArch64: Advanced SIMD with 8-bit dot products
  bool i8mm = false;          // neon + 8-bit matrix multiply
};

#if defined(KDNATIVE_EMULATE_AMX)
constexpr bool kEmulateAmx = true;  // this build computes tiles in software, so `amx` means no more than `avx512bf16`
#else
constexpr bool kEmulateAmx = false;
#endif

// Detected once. On Linux this asks the kernel for the AMX tile state, which later threads inherit.
const Features& features();

}  // namespace kdnative::cpu
