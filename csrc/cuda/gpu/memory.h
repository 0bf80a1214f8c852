// Loads, stores and atomics. Device half.
//
// Addresses are multiples of the size. load_global reads what no thread writes during the launch; load_written what
// another one of this launch may have written.
#pragma once

#include "gpu/values.h"

namespace gpu {

// ld.shared.b32
GPU_FN uint32_t load_shared4(uint32_t at) {
  uint32_t v;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
  return v;
}
// ld.shared.v4.b32
GPU_FN U4 load_shared16(uint32_t at) {
  U4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(at)
               : "memory");
  return v;
}

// st.shared.b32
GPU_FN void store_shared4(uint32_t at, uint32_t v) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(v) : "memory");
}
// st.shared.v4.b32
GPU_FN void store_shared16(uint32_t at, U4 v) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// ld.global.nc: 1, 2, 4 or 8 bytes, or a struct of 16 (U4).
template <typename T>
GPU_FN T load_global(const T* at) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  union {
    T value;
    uint16_t half;
    uint32_t words[4];
  } v;
  if constexpr (sizeof(T) == 1) {
    asm volatile("ld.global.nc.u8 %0, [%1];" : "=r"(v.words[0]) : "l"(at));
  } else if constexpr (sizeof(T) == 2) {
    asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(v.half) : "l"(at));
  } else if constexpr (sizeof(T) == 4) {
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(v.words[0]) : "l"(at));
  } else if constexpr (sizeof(T) == 8) {
    asm volatile("ld.global.nc.v2.b32 {%0, %1}, [%2];" : "=r"(v.words[0]), "=r"(v.words[1]) : "l"(at));
  } else {
    asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.words[0]), "=r"(v.words[1]), "=r"(v.words[2]), "=r"(v.words[3])
                 : "l"(at));
  }
  return v.value;
}
// ld.global.nc.v4.b32
GPU_FN U4 load_global16(const void* at) { return load_global(static_cast<const U4*>(at)); }
// ld.global.nc.L1::no_allocate.v4.b32: what is read once, such as weights.
GPU_FN U4 load_global16_once(const void* at) {
  U4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at));
  return v;
}

// ld.global: 4 bytes.
template <typename T>
GPU_FN T load_written(const T* at) {
  static_assert(sizeof(T) == 4);
  union {
    T value;
    uint32_t word;
  } v;
  asm volatile("ld.global.b32 %0, [%1];" : "=r"(v.word) : "l"(at) : "memory");
  return v.value;
}
// ld.global.v4.b32
GPU_FN U4 load_written16(const void* at) {
  U4 v;
  asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at)
               : "memory");
  return v;
}

// st.global: 1, 2, 4 or 8 bytes, or a struct of 16 (U4).
template <typename T>
GPU_FN void store_global(T* at, T value) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  union {
    uint32_t words[4];
    uint16_t half;
    uint8_t byte;
    T value;
  } v;
  v.value = value;
  if constexpr (sizeof(T) == 1) {
    asm volatile("st.global.u8 [%0], %1;" ::"l"(at), "r"(static_cast<uint32_t>(v.byte)) : "memory");
  } else if constexpr (sizeof(T) == 2) {
    asm volatile("st.global.u16 [%0], %1;" ::"l"(at), "h"(v.half) : "memory");
  } else if constexpr (sizeof(T) == 4) {
    asm volatile("st.global.b32 [%0], %1;" ::"l"(at), "r"(v.words[0]) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(at), "r"(v.words[0]), "r"(v.words[1]) : "memory");
  } else {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(v.words[0]), "r"(v.words[1]),
                 "r"(v.words[2]), "r"(v.words[3])
                 : "memory");
  }
}
// st.global.v4.b32
GPU_FN void store_global16(void* at, U4 v) { store_global(static_cast<U4*>(at), v); }

// atom.global.inc.u32: returns what was there; last becomes 0 again. The counter of a split sum: it resets itself.
GPU_FN uint32_t atomic_inc(uint32_t* at, uint32_t last) {
  uint32_t old;
  asm volatile("atom.global.inc.u32 %0, [%1], %2;" : "=r"(old) : "l"(at), "r"(last) : "memory");
  return old;
}

}  // namespace gpu
