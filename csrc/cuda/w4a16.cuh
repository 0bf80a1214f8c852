// What the kernels with float activations share: codes to factors of 16 bits, and what follows the product.
//
// T is the type of the factors, Half or Bf16. Both hold u - zero exactly, so a product of x and a weight without its
// scale is exact too: sums are fp32, and each unit's sum is multiplied by its scale in fp32.
#pragma once
#include "activation.cuh"
#include "element.cuh"
#include "gpu.h"
#include "kinds.h"
#include "w4a16_layout.h"

namespace gpu {

GPU_FN uint32_t word_of(U4 v, int j) { return j == 0 ? v.x : j == 1 ? v.y : j == 2 ? v.z : v.w; }

GPU_FN void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Half) { mma_f16(d, a, b0, b1); }
GPU_FN void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Bf16) { mma_bf16(d, a, b0, b1); }

// A float whose last bits are an integer: 1024 + u is fp16 0x6400 | u, and 128 + u is bf16 0x4300 | u. Subtracting
// the 1024 and the zero point at once leaves u - zero, exact in each step. `zeros`: the zero points of four outputs, of
// which this is output j; 8 bits have none.
constexpr uint32_t kNoZeros = 0x08080808u;

// bits | (word & mask), in one instruction.
GPU_FN uint32_t insert(uint32_t word, uint32_t mask, uint32_t bits) {
  return lop3<(0xf0 & 0xcc) | 0xaa>(word, mask, bits);
}

template <typename T, int kBits>
struct Decode;

template <>
struct Decode<Half, 4> {
  // Two slots a step: the second is 16 times too large, 1024 + 16 u.
  static GPU_FN void run(uint32_t word, uint32_t zeros, int j, uint32_t (&pairs)[4]) {
    const uint32_t low = permute(zeros, 0xe4e4e4e4u, 0x4040u + 0x0101u * j);  // -(1024 + zero), twice
    const uint32_t high = add_half2(low, 0x63806380u);                        // -(64 + zero)
#pragma unroll
    for (int s = 0; s < 4; s += 2, word >>= 8) {
      pairs[s] = add_half2(insert(word, 0x000f000fu, 0x64006400u), low);
      pairs[s + 1] = fma_half2(insert(word, 0x00f000f0u, 0x64006400u), 0x2c002c00u, high);
    }
  }
};

template <>
struct Decode<Bf16, 4> {
  static GPU_FN void run(uint32_t word, uint32_t zeros, int j, uint32_t (&pairs)[4]) {
    const uint32_t low = permute(zeros, 0xc3c3c3c3u, 0x4040u + 0x0101u * j);  // -(128 + zero), twice
#pragma unroll
    for (int s = 0; s < 4; ++s, word >>= 4)
      pairs[s] = fma_bf16x2(insert(word, 0x000f000fu, 0x43004300u), 0x3f803f80u, low);
  }
};

// One word of 8 bits has the pairs of two slots.
template <>
struct Decode<Half, 8> {
  static GPU_FN void run(uint32_t word, uint32_t (&pairs)[2]) {
#pragma unroll
    for (int s = 0; s < 2; ++s, word >>= 8)
      pairs[s] = add_half2(insert(word, 0x00ff00ffu, 0x64006400u), 0xe480e480u);  // - (1024 + 128)
  }
};

template <>
struct Decode<Bf16, 8> {
  // 8 bits are more than 128 + u has room for: 16 (128 + u / 16) - 2304, then + 128 + u % 16, leaves u - 128.
  static GPU_FN void run(uint32_t word, uint32_t (&pairs)[2]) {
#pragma unroll
    for (int s = 0; s < 2; ++s, word >>= 8) {
      const uint32_t high = fma_bf16x2(insert(word >> 4, 0x000f000fu, 0x43004300u), 0x41804180u, 0xc510c510u);
      pairs[s] = fma_bf16x2(insert(word, 0x000f000fu, 0x43004300u), 0x3f803f80u, high);
    }
  }
};

// The factors of one output of a lane's part of a unit, slot by slot.
template <typename T, int kBits>
GPU_FN void factors_of(const U4 (&vectors)[kBits / 4], uint32_t zeros, int j, uint32_t (&pairs)[4]) {
  if constexpr (kBits == 4) {
    Decode<T, 4>::run(word_of(vectors[0], j), zeros, j, pairs);
  } else {
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      uint32_t half[2];
      Decode<T, 8>::run(word_of(vectors[v], j), half);
      pairs[2 * v] = half[0], pairs[2 * v + 1] = half[1];
    }
  }
}

// Where a product goes: activation(y + bias) + residual, each step rounded in fp32.
struct W4A16Output {
  const float* bias;     // [n], padded to 32, or nullptr
  const void* residual;  // [m, n] of the type of out, or nullptr
  void* out;             // [m, n]: the type of the factors, or fp32
  int wide;              // whether it is fp32
  int whole;             // whether rows of both can be read four elements at a time, from their first
  int m, n;
  Activation activation;
};

// Outputs [column, column + kMost) of a row; those from n on are left out. kMost: 1, or 4 with column a multiple of it.
template <typename T, int kMost>
GPU_FN void store_outputs_as(const W4A16Output& o, int row, int column, float (&y)[4]) {
  const int count = kMost < o.n - column ? kMost : o.n - column;
  const int64_t at = static_cast<int64_t>(row) * o.n + column;
  if (o.residual != nullptr) {
    float added[4];
    load4(static_cast<const T*>(o.residual) + at, count, o.whole, added);
#pragma unroll
    for (int i = 0; i < 4; ++i) y[i] = add_rn(y[i], added[i]);
  }
  store4(static_cast<T*>(o.out) + at, count, o.whole, y);
}
template <typename T, int kMost>
GPU_FN void store_outputs(const W4A16Output& o, int row, int column, float (&y)[4]) {
  if (row >= o.m || column >= o.n) return;
  if (o.bias != nullptr) {
    float biases[4];
    load4(o.bias + column, kMost, true, biases);
#pragma unroll
    for (int i = 0; i < 4; ++i) y[i] = add_rn(y[i], biases[i]);
  }
  activate(y, o.activation);
  if (o.wide)
    store_outputs_as<float, kMost>(o, row, column, y);
  else
    store_outputs_as<T, kMost>(o, row, column, y);
}

// Blocks that share an output tile add up what they have written for each other: whether this is the last of them. What
// all of them wrote is seen then. Every thread of the block must come here.
GPU_FN bool last_of(uint32_t* counter, int blocks, uint32_t shared_word) {
  sync_threads();  // what this block wrote is before the counter, by thread 0, and after it what the others wrote
  if (thread() == 0) {
    fence_global();
    store_shared4(shared_word, atomic_inc(counter, static_cast<uint32_t>(blocks - 1)));
    fence_global();
  }
  sync_threads();
  return load_shared4(shared_word) == static_cast<uint32_t>(blocks - 1);
}

}  // namespace gpu
