// Loads, stores and atomics. Emulated half of csrc/cuda/gpu/memory.h.
#pragma once

#include <cstring>

#include "shadow.h"

namespace gpu {

namespace emulator {

template <typename T>
T load_shared(const char* name, uint32_t at, const Where& where) {
  touch_shared(at, sizeof(T), Touch::kRead, name, where);
  record(name, false, at, sizeof(T), where);
  T v;
  std::memcpy(&v, &machine->shared[at], sizeof v);
  return v;
}
template <typename T>
void store_shared(const char* name, uint32_t at, T v, const Where& where) {
  touch_shared(at, sizeof(T), Touch::kWrite, name, where);
  record(name, false, at, sizeof(T), where);
  std::memcpy(&machine->shared[at], &v, sizeof v);
}

template <typename T>
T load_device(const char* name, const void* at, Touch touch, const Where& where) {
  touch_global(at, sizeof(T), sizeof(T), touch, name, where);
  T v;
  std::memcpy(&v, at, sizeof v);
  return v;
}
template <typename T>
void store_device(const char* name, void* at, T v, const Where& where) {
  touch_global(at, sizeof(T), sizeof(T), Touch::kWrite, name, where);
  std::memcpy(at, &v, sizeof v);
}
// What was there becomes change(it).
template <typename T, typename F>
T atomic(const char* name, T* at, const Where& where, F change) {
  touch_global(at, sizeof(T), sizeof(T), Touch::kAtomic, name, where);
  note_atomic(at);
  const T old = *at;
  *at = change(old);
  return old;
}
// Names of one instruction for each size.
template <typename T>
constexpr const char* by_size(const char* one, const char* two, const char* four, const char* eight,
                              const char* sixteen) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  return sizeof(T) == 1 ? one : sizeof(T) == 2 ? two : sizeof(T) == 4 ? four : sizeof(T) == 8 ? eight : sixteen;
}

}  // namespace emulator

inline uint32_t load_shared4(uint32_t at, emulator::Where where = emulator::Where::current()) {
  return emulator::load_shared<uint32_t>("ld.shared.b32", at, where);
}
inline U4 load_shared16(uint32_t at, emulator::Where where = emulator::Where::current()) {
  return emulator::load_shared<U4>("ld.shared.v4.b32", at, where);
}
inline void store_shared4(uint32_t at, uint32_t v, emulator::Where where = emulator::Where::current()) {
  emulator::store_shared("st.shared.b32", at, v, where);
}
inline void store_shared16(uint32_t at, U4 v, emulator::Where where = emulator::Where::current()) {
  emulator::store_shared("st.shared.v4.b32", at, v, where);
}

template <typename T>
T load_global(const T* at, emulator::Where where = emulator::Where::current()) {
  constexpr const char* name = emulator::by_size<T>("ld.global.nc.u8", "ld.global.nc.u16", "ld.global.nc.b32",
                                                    "ld.global.nc.v2.b32", "ld.global.nc.v4.b32");
  return emulator::load_device<T>(name, at, emulator::Touch::kReadOnly, where);
}
inline U4 load_global16(const void* at, emulator::Where where = emulator::Where::current()) {
  return emulator::load_device<U4>("ld.global.nc.v4.b32", at, emulator::Touch::kReadOnly, where);
}
inline U4 load_global16_once(const void* at, emulator::Where where = emulator::Where::current()) {
  return emulator::load_device<U4>("ld.global.nc.L1::no_allocate.v4.b32", at, emulator::Touch::kReadOnly, where);
}

template <typename T>
T load_written(const T* at, emulator::Where where = emulator::Where::current()) {
  static_assert(sizeof(T) == 4);
  return emulator::load_device<T>("ld.global.b32", at, emulator::Touch::kRead, where);
}
inline U4 load_written16(const void* at, emulator::Where where = emulator::Where::current()) {
  return emulator::load_device<U4>("ld.global.v4.b32", at, emulator::Touch::kRead, where);
}

template <typename T>
void store_global(T* at, T value, emulator::Where where = emulator::Where::current()) {
  constexpr const char* name =
      emulator::by_size<T>("st.global.u8", "st.global.u16", "st.global.b32", "st.global.v2.b32", "st.global.v4.b32");
  emulator::store_device(name, at, value, where);
}
inline void store_global16(void* at, U4 v, emulator::Where where = emulator::Where::current()) {
  emulator::store_device("st.global.v4.b32", at, v, where);
}

inline uint32_t atomic_inc(uint32_t* at, uint32_t last, emulator::Where where = emulator::Where::current()) {
  return emulator::atomic("atom.global.inc.u32", at, where, [last](uint32_t old) { return old >= last ? 0 : old + 1; });
}

}  // namespace gpu
