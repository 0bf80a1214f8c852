// What comes before a product: rows of x as factors; and the weights as a plain matrix, for a product by others.
#pragma once
#include "w4a16.cuh"

namespace gpu {

// x of any type; with fp16 factors it is fp16.
struct W4A16Rows {
  const void* x;  // [m, k], row after row
  DType type;
  int paired;                // whether rows can be read two elements at a time, from their first
  const float* input_scale;  // [k padded to 32], or nullptr
  int k;

  // Elements 2 p and 2 p + 1 of a row times their input scales, rounded to T; zeros from k on.
  template <typename T>
  GPU_FN uint32_t load_pair(int64_t row, int p) const {
    if (type == DType::f32) return load_pair_as<T>(static_cast<const float*>(x) + row * k, p);
    return load_pair_as<T>(static_cast<const T*>(x) + row * k, p);
  }

  template <typename T, typename X>
  GPU_FN uint32_t load_pair_as(const X* row, int p) const {
    struct alignas(2 * sizeof(X)) Pair {
      X low, high;
    };
    float low = 0.0f, high = 0.0f;
    if (paired && 2 * p + 1 < k) {
      const Pair both = load_global(static_cast<const Pair*>(static_cast<const void*>(row)) + p);
      low = to_float(both.low), high = to_float(both.high);
    } else {
      if (2 * p < k) low = to_float(load_global(row + 2 * p));
      if (2 * p + 1 < k) high = to_float(load_global(row + 2 * p + 1));
    }
    if (input_scale != nullptr) {
      const U2 s = load_global(static_cast<const U2*>(static_cast<const void*>(input_scale)) + p);
      low = mul_rn(low, float_of_bits(s.x)), high = mul_rn(high, float_of_bits(s.y));
    }
    return to_pair<T>(low, high);
  }
};

// out [m, ld_out]: rows of x as factors, a block a row; zeros from k on. ld_out is even.
template <typename T>
GPU_FN void w4a16_rows(const W4A16Rows& rows, uint32_t* out, int ld_out) {
  const int64_t row = block_x();
  for (int p = thread(); p < ld_out / 2; p += 256)
    store_global(out + row * (ld_out / 2) + p, rows.load_pair<T>(row, p));
}

// out [n, k] = (u - zero) * scale * input_scale, rounded in fp32 and then to T: a warp a unit, through shared memory so
// that rows are stored whole.
template <typename T, int kBits>
struct W4A16Dequantize {
  static constexpr int kWarps = 8, kSharedBytes = kWarps * kUnit * kUnit * 2;

  const uint8_t* codes;
  const float* scale;
  const uint8_t* zeros;      // or nullptr
  const float* input_scale;  // or nullptr
  T* out;
  int n, k, group_shift;

  // Chunk c (8 inputs) of output o: eight lanes never share a bank, whether they write words or read chunks.
  static GPU_FN uint32_t chunk_at(uint32_t tile, int o, int c) { return tile + o * 64 + ((c ^ (o >> 1)) & 3) * 16; }

  GPU_FN uint32_t scaled(uint32_t pair, float scale_w, int input) const {
    float low = mul_rn(to_float(T{static_cast<uint16_t>(pair)}), scale_w);
    float high = mul_rn(to_float(T{static_cast<uint16_t>(pair >> 16)}), scale_w);
    if (input_scale != nullptr)
      low = mul_rn(low, load_global(input_scale + input)), high = mul_rn(high, load_global(input_scale + input + 1));
    return to_pair<T>(low, high);
  }

  GPU_FN void run() const {
    const int lane = thread() & 31, g = lane >> 2, t = lane & 3;
    const int units = (k + kUnit - 1) / kUnit, strips = (n + kUnit - 1) / kUnit;
    const int64_t nth = static_cast<int64_t>(block_x()) * kWarps + (thread() >> 5);
    if (nth >= static_cast<int64_t>(units) * strips) return;  // a whole warp, and no barrier of the block follows
    const int strip = static_cast<int>(nth / units), unit = static_cast<int>(nth % units);
    const uint32_t tile = shared_base() + (thread() >> 5) * (kUnit * kUnit * 2);
    U4 vectors[kBits / 4];
#pragma unroll
    for (int v = 0; v < kBits / 4; ++v)
      vectors[v] = load_global16_once(codes + nth * unit_bytes(kBits) + v * 512 + lane * 16);
    const int64_t group = static_cast<int64_t>(unit >> group_shift) * strips * kUnit + strip * kUnit;
    const uint32_t scales = bits_of(load_global(scale + group + lane));
    uint32_t zero_points = kNoZeros;
    if (zeros != nullptr)
      zero_points = load_global(static_cast<const uint32_t*>(static_cast<const void*>(zeros + group)) + g);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t pairs[4];
      factors_of<T, kBits>(vectors, zero_points, j, pairs);
      const float scale_w = float_of_bits(shuffle_from(scales, output_of(j, g)));
#pragma unroll
      for (int s = 0; s < 4; ++s)
        store_shared4(chunk_at(tile, j * 8 + g, s) + t * 4, scaled(pairs[s], scale_w, unit * kUnit + s * 8 + t * 2));
    }
    sync_warp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = i * 8 + g, o = strip * kUnit + output_of(at / 8, at % 8), input = unit * kUnit + t * 8;
      const U4 chunk = load_shared16(chunk_at(tile, at, t));
      if (o >= n || input >= k) continue;
      T* to = out + static_cast<int64_t>(o) * k + input;
      if (k % 8 == 0) {
        store_global16(to, chunk);
      } else {
#pragma unroll
        for (int e = 0; e < 8; ++e)
          if (input + e < k) store_global(to + e, T{static_cast<uint16_t>(word_of(chunk, e / 2) >> e % 2 * 16)});
      }
    }
  }
};

}  // namespace gpu
