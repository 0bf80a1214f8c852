#include "features.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace kdnative::cpu {
namespace {

#if defined(__x86_64__)

uint64_t enabled_states() {  // XCR0: the register files that the OS saves
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

bool request_amx() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Family 19h of AMD: Zen 3, which has no AVX-512, and Zen 4.
bool is_zen4_or_zen3(uint32_t signature) {
  uint32_t most, vendor[3];  // "AuthenticAMD", in the order ebx, edx, ecx
  if (!__get_cpuid_count(0, 0, &most, &vendor[0], &vendor[2], &vendor[1])) return false;
  const uint32_t family = (signature >> 8 & 0xf) + (signature >> 20 & 0xff);
  return std::memcmp(vendor, "AuthenticAMD", sizeof vendor) == 0 && family == 0x19;
}

Features detect() {
  Features found;
  uint32_t a, b, c, d;
  if (!__get_cpuid_count(1, 0, &a, &b, &c, &d)) return found;
  const uint32_t signature = a;
  const bool osxsave = c & (1u << 27), fma = c & (1u << 12), f16c = c & (1u << 29);
  if (!osxsave) return found;
  const uint64_t states = enabled_states();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const auto has = [](uint32_t word, int bit) { return (word >> bit & 1u) != 0; };
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
  found.avx2 = (states & kYmm) == kYmm && has(b, 5) && fma && f16c;
  found.avx512vnni =
      found.avx2 && (states & kZmm) == kZmm && has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31) && has(c, 11);
  found.avx512halves = found.avx512vnni && is_zen4_or_zen3(signature);
  found.avx512vbmi2 = found.avx512vnni && has(c, 1) && has(c, 6);
  const bool tiles = (states & kTiles) == kTiles && has(d, 22) && has(d, 24) && has(d, 25);
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return found;
  found.avxvnni = found.avx2 && has(a, 4);
  found.avx512bf16 = found.avx512vnni && has(a, 5);
  found.amx = found.avx512bf16 && (kEmulateAmx || (tiles && request_amx()));
  return found;
}

#elif defined(__aarch64__) && defined(__linux__)

Features detect() {
  // HWCAP_ASIMDDP and HWCAP2_I8MM of <asm/hwcap.h>, which older system headers lack.
  constexpr unsigned long kDotProduct = 1ul << 20, kMatrixMultiply = 1ul << 13;
  Features found;
  found.neon = (getauxval(AT_HWCAP) & kDotProduct) != 0;
  found.i8mm = found.neon && (getauxval(AT_HWCAP2) & kMatrixMultiply) != 0;
  return found;
}

#else

Features detect() { return {}; }

#endif

}  // namespace

const Features& features() {
  static const Features found = detect();
  return found;
}

}  // namespace kdnative::cpu
