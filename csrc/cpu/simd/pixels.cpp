// Real pixels as codes, four channels at a time: they are 32 bits of the result. Pixels lie in planes (a vector is a
// channel of several pixels) or beside one another (a vector has all four channels of some pixels).
#include <cstring>

#include "vec.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "io.h"
#include "zips.h"

namespace kdnative::cpu::KDNATIVE_ISA {
namespace {

constexpr int64_t kBlock = Codes::width / 4;  // pixels of four bytes that a register has

// What rounds to the code of a value: infinity may not reach a conversion. 0 where the value is NaN.
inline Vec limited(Vec value, Vec scale, Vec offset) {
  return min(max(value * scale + offset, Vec::zero()), Vec::set1(255.0f));
}

// Where the codes of four channels go: 32 bits of every pixel, `pixel` bytes apart.
struct Target {
  uint8_t* out;
  int64_t pixel;

  void store(Codes codes, int64_t first, int64_t n) const {
    uint8_t* to = out + first * pixel;
    if (pixel == 4) {
      if (n >= kBlock) return codes.store(to);
      return codes.store(to, 4 * n);
    }
    uint8_t all[Codes::width];
    codes.store(all);
    for (int64_t i = 0; i < n && i < kBlock; ++i) std::memcpy(to + i * pixel, all + 4 * i, 4);
  }
};

// Scales and offsets below are of four channels: 0 for those that there are not.

// Channels in planes: channel c of the four begins at element c * plane of x.
template <DType type, int channels>
inline bool quantize_planes(const void* x, int64_t first, int64_t plane, int64_t pixels, const float* scale,
                            const float* offset, const Target& to) {
  Vec s[channels], o[channels];
#pragma GCC unroll 4
  for (int c = 0; c < channels; ++c) s[c] = Vec::set1(scale[c]), o[c] = Vec::set1(offset[c]);
  Mask bad = no_lanes();
  const auto block = [&](int64_t p, const auto& load) {
    Vec v[4];
#pragma GCC unroll 4
    for (int c = 0; c < channels; ++c) {
      v[c] = load(first + c * plane + p);
      bad = bad | unordered(v[c]);
    }
    Ints codes = nearest(limited(v[0], s[0], o[0]));
    if constexpr (channels > 1) codes = codes | shift_left<8>(nearest(limited(v[1], s[1], o[1])));
    if constexpr (channels > 2) codes = codes | shift_left<16>(nearest(limited(v[2], s[2], o[2])));
    if constexpr (channels > 3) codes = codes | shift_left<24>(nearest(limited(v[3], s[3], o[3])));
    return bytes(codes);
  };
  int64_t p = 0;
  for (; p + kBlock <= pixels; p += kBlock)
    to.store(block(p, [&](int64_t i) { return load_as<type>(x, i); }), p, kBlock);
  if (p < pixels) to.store(block(p, [&](int64_t i) { return load_as<type>(x, i, pixels - p); }), p, pixels - p);
  return !any(bad);
}

// Channels beside one another, pixels `step` elements apart. Four floats of every pixel can be read.
struct Interleaved {
  Interleaved(int64_t channels, const float* scale_of, const float* offset_of) {
    float s[Vec::width], o[Vec::width], at[Vec::width];
    for (int64_t i = 0; i < Vec::width; ++i) {
      s[i] = scale_of[i % 4];
      o[i] = offset_of[i % 4];
      at[i] = static_cast<float>(i % 4);
    }
    scale = Vec::load(s), offset = Vec::load(o);
    valid = Vec::load(at) < Vec::set1(static_cast<float>(channels));
  }

  // kBlock pixels from x on.
  Codes block(const float* x, int64_t step) {
    Vec q[4];
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) {  // in the order of pack: part l of vector j is pixel 4 * l + j
      const Vec v = select(valid, load_fours(x + j * step, 4 * step), Vec::zero());
      bad = bad | unordered(v);
      q[j] = limited(v, scale, offset);
    }
    return pack(q);
  }

  Vec scale, offset;
  Mask valid, bad = no_lanes();
};

template <DType type>
inline bool quantize_interleaved(const void* x, int64_t first, int64_t step, int64_t pixels, int64_t channels,
                                 const float* scale, const float* offset, const Target& to) {
  Interleaved some(channels, scale, offset);
  int64_t p = 0;
  if constexpr (type == DType::f32) {  // but for the last pixels, which may have less than four floats
    const float* from = static_cast<const float*>(x) + first;
    const int64_t size = (pixels - 1) * step + channels;
    for (; (p + kBlock - 1) * step + 4 <= size; p += kBlock) to.store(some.block(from + p * step, step), p, kBlock);
  }
  constexpr int64_t kRoom = 4096;
  alignas(64) float copy[kRoom + 4];
  const int64_t most = kRoom / step / kBlock * kBlock;  // pixels of a copy
  while (p < pixels) {
    const int64_t n = pixels - p < most ? pixels - p : most, size = (n - 1) * step + channels;
    for (int64_t i = 0; i < size; i += Vec::width) {
      if (size - i >= Vec::width) {
        load_as<type>(x, first + p * step + i).store(copy + i);
      } else {
        load_as<type>(x, first + p * step + i, size - i).store(copy + i, size - i);
      }
    }
    const int64_t read = ((n + kBlock - 1) / kBlock * kBlock - 1) * step + 4;
    for (int64_t i = size; i < read; ++i) copy[i] = 0.0f;
    for (int64_t i = 0; i < n; i += kBlock) to.store(some.block(copy + i * step, step), p + i, n - i);
    p += n;
  }
  return !any(some.bad);
}

template <DType type>
inline bool quantize_four(const void* x, int64_t first, int64_t plane, int64_t step, int64_t pixels, int64_t channels,
                          const float* scale, const float* offset, const Target& to) {
  if (step == 1 && channels == 1) return quantize_planes<type, 1>(x, first, plane, pixels, scale, offset, to);
  if (step == 1 && channels == 2) return quantize_planes<type, 2>(x, first, plane, pixels, scale, offset, to);
  if (step == 1 && channels == 3) return quantize_planes<type, 3>(x, first, plane, pixels, scale, offset, to);
  if (step == 1) return quantize_planes<type, 4>(x, first, plane, pixels, scale, offset, to);
  if (plane == 1 && step > 0 && step <= 128)
    return quantize_interleaved<type>(x, first, step, pixels, channels, scale, offset, to);
  bool sound = true;  // any other layout, a pixel at a time
  for (int64_t p = 0; p < pixels; ++p) {
    float values[4] = {};
    for (int64_t c = 0; c < channels; ++c) load_as<type>(x, first + c * plane + p * step, 1).store(values + c, 1);
    sound &= quantize_planes<DType::f32, 4>(values, 0, 1, 1, scale, offset, {to.out + p * to.pixel, 4});
  }
  return sound;
}

template <DType type>
inline bool quantize_all(const void* x, int64_t plane, int64_t step, int64_t pixels, int64_t channels,
                         const float* scale, const float* offset, uint8_t* out, int64_t out_pixel) {
  bool sound = true;
  for (int64_t c = 0; c < channels; c += 4) {
    const int64_t count = channels - c < 4 ? channels - c : 4;
    float four_scales[4] = {}, four_offsets[4] = {};
    for (int64_t i = 0; i < count; ++i) four_scales[i] = scale[c + i], four_offsets[i] = offset[c + i];
    sound &=
        quantize_four<type>(x, c * plane, plane, step, pixels, count, four_scales, four_offsets, {out + c, out_pixel});
  }
  return sound;
}

}  // namespace

bool quantize_pixels(const void* x, int32_t type, int64_t plane, int64_t step, int64_t pixels, int64_t channels,
                     const float* scale, const float* offset, uint8_t* out, int64_t out_pixel) {
  const auto run = type == static_cast<int32_t>(DType::f32)    ? quantize_all<DType::f32>
                   : type == static_cast<int32_t>(DType::bf16) ? quantize_all<DType::bf16>
                                                               : quantize_all<DType::f16>;
  return run(x, plane, step, pixels, channels, scale, offset, out, out_pixel);
}

}  // namespace kdnative::cpu::KDNATIVE_ISA
