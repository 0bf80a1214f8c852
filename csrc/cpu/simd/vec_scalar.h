// Vec of one lane, in portable C++: the scalar reference runs the very same algorithms as the wide instruction sets.
//
// Include exactly one vec_*.h in a file. Everything is in an anonymous namespace: a helper shared between objects that
// are compiled for different instruction sets could be merged by the linker into the wider one.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../kernels.h"

namespace kdnative::cpu {
namespace {

inline uint32_t float_bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, sizeof(u));
  return u;
}

inline float bits_float(uint32_t u) {
  float x;
  std::memcpy(&x, &u, sizeof(x));
  return x;
}

struct Vec {
  static constexpr int64_t width = 1;
  float v;

  static Vec set1(float x) { return {x}; }
  static Vec zero() { return {0.0f}; }
  static Vec load(const float* p) { return {*p}; }
  static Vec load(const float* p, int64_t n) { return {n > 0 ? *p : 0.0f}; }
  static Vec load_s8(const int8_t* p) { return {static_cast<float>(*p)}; }
  static Vec load_s8(const int8_t* p, int64_t n) { return {n > 0 ? static_cast<float>(*p) : 0.0f}; }
  static Vec load_s32(const int32_t* p) { return {static_cast<float>(*p)}; }

  static Vec load_bf16(const uint16_t* p) { return {bits_float(static_cast<uint32_t>(*p) << 16)}; }
  static Vec load_bf16(const uint16_t* p, int64_t n) { return n > 0 ? load_bf16(p) : zero(); }

  static Vec load_f16(const uint16_t* p) {
    const uint32_t h = *p, sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31u, fraction = h & 0x3ffu;
    if (exponent == 31) return {bits_float(sign | 0x7f800000u | fraction << 13 | (fraction ? 0x400000u : 0u))};
    if (exponent == 0) {  // zero or subnormal: fraction * 2^-24 is exact
      const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
      return {bits_float(sign | float_bits(magnitude))};
    }
    return {bits_float(sign | (exponent + 112u) << 23 | fraction << 13)};
  }
  static Vec load_f16(const uint16_t* p, int64_t n) { return n > 0 ? load_f16(p) : zero(); }

  void store(float* p) const { *p = v; }
  void store(float* p, int64_t n) const {
    if (n > 0) *p = v;
  }

  void store_bf16(uint16_t* p) const {
    const uint32_t u = float_bits(v);
    *p = static_cast<uint16_t>(v != v ? (u >> 16 | 0x40u) : (u + 0x7fffu + (u >> 16 & 1u)) >> 16);
  }
  void store_bf16(uint16_t* p, int64_t n) const {
    if (n > 0) store_bf16(p);
  }

  void store_f16(uint16_t* p) const {
    const uint32_t u = float_bits(v), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    uint32_t h;
    if (a > 0x7f800000u) {
      h = 0x7e00u | (a >> 13 & 0x3ffu);
    } else if (a >= 0x477ff000u) {  // 65520 and above round to infinity
      h = 0x7c00u;
    } else if (a < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the rounded subnormal in the low bits
      h = float_bits(bits_float(a) + 0.5f) - 0x3f000000u;
    } else {
      h = (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13;
    }
    *p = static_cast<uint16_t>(sign | h);
  }
  void store_f16(uint16_t* p, int64_t n) const {
    if (n > 0) store_f16(p);
  }
};

struct Mask {
  bool m;
};

struct Word {  // `width` lanes of 32 bits: fields of packed weights
  uint32_t v;
  static Word load(const uint8_t* p) {
    Word w;
    std::memcpy(&w.v, p, sizeof(w.v));
    return w;
  }
  static Word repeat(const uint8_t* p) { return {*p * 0x01010101u}; }  // `width` bytes, each of them four times
  void store(int8_t* p) const { std::memcpy(p, &v, sizeof(v)); }
};

// The four low bits from `shift` on of every byte; byte by byte, a product below 256 and a difference modulo 256.
template <int shift>
inline Word nibbles(Word w) {
  return {w.v >> shift & 0x0f0f0f0fu};
}
inline Word scale_bytes(Word codes, Word factor) {
  uint32_t product = 0;
  for (int i = 0; i < 32; i += 8) product |= (codes.v >> i & 0xff) * (factor.v >> i & 0xff) << i;
  return {product};
}
inline Word subtract_bytes(Word a, Word b) {
  uint32_t difference = 0;
  for (int i = 0; i < 32; i += 8) difference |= (((a.v >> i) - (b.v >> i)) & 0xff) << i;
  return {difference};
}

// The byte of every lane from bit `shift` on, signed; the `bits` bits from there on, unsigned.
template <int shift>
inline Vec signed_byte(Word w) {
  return {static_cast<float>(static_cast<int8_t>(w.v >> shift & 0xff))};
}
template <int shift, int bits>
inline Vec unsigned_field(Word w) {
  return {static_cast<float>(w.v >> shift & ((1u << bits) - 1))};
}

inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {std::fma(a.v, b.v, c.v)}; }  // a * b + c, rounded once
inline Vec keep(Vec a) { return a; }                                       // stays in its register
inline Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }           // b where either is NaN
inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }           // b where either is NaN
inline Vec abs(Vec a) { return {bits_float(float_bits(a.v) & 0x7fffffffu)}; }
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return {bits_float((float_bits(magnitude.v) & 0x7fffffffu) | (float_bits(sign.v) & 0x80000000u))};
}
inline Vec sqrt(Vec a) { return {std::sqrt(a.v)}; }
inline Vec round(Vec a) { return {std::nearbyint(a.v)}; }  // half to even

inline Mask operator<(Vec a, Vec b) { return {a.v < b.v}; }
inline Mask operator>(Vec a, Vec b) { return {a.v > b.v}; }
inline Mask operator==(Vec a, Vec b) { return {a.v == b.v}; }
inline Vec select(Mask m, Vec if_true, Vec if_false) { return m.m ? if_true : if_false; }

// v * 2^n by adding n to the exponent: n integral, v and the result normal. NaN stays NaN where n is NaN.
inline Vec scale2(Vec v, Vec n) {
  const uint32_t shift = n.v == n.v ? static_cast<uint32_t>(static_cast<int32_t>(n.v)) << 23 : 0u;
  return {bits_float(float_bits(v.v) + shift)};
}

inline float reduce_add(Vec a) { return a.v; }
inline float reduce_max(Vec a) { return a.v; }

}  // namespace
}  // namespace kdnative::cpu
