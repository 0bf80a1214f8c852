// Maps of codes: pooling, sums, products and tables.
#include <algorithm>

#include "../instruction_sets.h"
#include "../simd/vec_scalar.h"
#include "requantize.h"

namespace kdnative::cpu::reference {

void max_window(const Map& in, const Window& w, uint8_t* out) {
  for (int64_t c = 0; c < in.channels; ++c) {
    uint8_t largest = 0;
    for (int64_t y = w.y0; y < w.y1; ++y)
      for (int64_t x = w.x0; x < w.x1; ++x) largest = std::max(largest, pixel_at(in, w.image, y, x)[c]);
    out[c] = largest;
  }
}

void average_window(const Map& in, const Window& w, int32_t zero, float scale, float out_zero, uint8_t* out) {
  const auto pixels = static_cast<int32_t>((w.y1 - w.y0) * (w.x1 - w.x0));
  for (int64_t c = 0; c < in.channels; ++c) {
    int32_t sum = -pixels * zero;
    for (int64_t y = w.y0; y < w.y1; ++y)
      for (int64_t x = w.x0; x < w.x1; ++x) sum += pixel_at(in, w.image, y, x)[c];
    out[c] = saturate(static_cast<float>(sum) * scale + out_zero);
  }
}

void add_codes(const uint8_t* a, const uint8_t* b, int64_t n, float scale_a, float offset, float scale_b,
               const Epilogue8& e, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i)
    out[i] = finish_code(e, (static_cast<float>(a[i]) * scale_a + offset) + static_cast<float>(b[i]) * scale_b);
}

void multiply_codes(const uint8_t* x, int64_t pixel, const uint8_t* gate, int64_t pixels, int64_t channels,
                    int32_t zero, int32_t gate_zero, float scale, float out_zero, uint8_t* out, int64_t out_pixel) {
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t c = 0; c < channels; ++c) {
      const int32_t product = (x[p * pixel + c] - zero) * (gate[c] - gate_zero);
      out[p * out_pixel + c] = saturate(static_cast<float>(product) * scale + out_zero);
    }
}

void look_up(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = table[x[i]];
}

bool quantize_pixels(const void* x, int32_t type, int64_t plane, int64_t step, int64_t pixels, int64_t channels,
                     const float* scale, const float* offset, uint8_t* out, int64_t out_pixel) {
  const auto load = [&](int64_t i) {
    if (type == static_cast<int32_t>(DType::f32)) return static_cast<const float*>(x)[i];
    const auto* half = static_cast<const uint16_t*>(x) + i;
    return type == static_cast<int32_t>(DType::bf16) ? Vec::load_bf16(half).v : Vec::load_f16(half).v;
  };
  bool sound = true;
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      const float value = load(c * plane + p * step);
      sound = sound && !std::isnan(value);
      out[p * out_pixel + c] = saturate(value * scale[c] + offset[c]);
    }
    for (int64_t c = channels; c < (channels + 3) / 4 * 4; ++c) out[p * out_pixel + c] = 0;
  }
  return sound;
}

}  // namespace kdnative::cpu::reference
