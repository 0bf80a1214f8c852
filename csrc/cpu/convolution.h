// Kernels of networks of convolutions: what one instruction set must provide, and the numerics that all share.
//
// Activations are u8 codes with one scale and zero point for a whole map, x = (q - zero) * scale; weights are s8 codes
// in
// [-127, 127] with a scale for each output channel. Sums are exact: acc = sum((q - zero) * w) in int32. What follows is
// fp32, each operation rounded by itself (no fused multiply-add), so every instruction set returns the same bits:
//
//   v = float(acc) * scale[n] + bias[n]              bias holds the zero point of the result
//   v = v + float(r) * residual_scale                 where there is a residual; bias holds its zero point too
//   q = min(max(rint(v), low), high)                  half to even; ReLU and ReLU6 are low and high
//
// Finish says what takes the place of the last line. Whoever packs makes sure that |v| stays below 2^30 wherever it is
// rounded, of hard-swish |v * out_scale + out_zero| too.
#pragma once

#include <cstdint>

namespace kdnative::cpu {

// Maps of u8, channels last: channel c of pixel (y, x) of image i is data[i * image + y * row + x * pixel + c]. `pixel`
// is a multiple of 4 where the map lies alone; inside of a concatenation it is that of the whole. At least 64 bytes
// behind the last pixel can be read. With a border, rows and columns of zero points lie around every image: `data` is
// the pixel (0, 0) inside of it, and row >= (width + 2 * border) * pixel.
struct Map {
  uint8_t* data;
  int64_t image, row, pixel;  // bytes
  int64_t images, height, width, channels;
  int64_t border = 0;
};

enum class Finish : int32_t {
  clamp = 0,       // above
  hard_swish = 1,  // t = min(max(v * (1 / 6) + 0.5, 0), 1); v = (v * t) * out_scale + out_zero; then as above
  table = 2,       // q = table[q], q as above
  real = 3,        // v itself, fp32
};

struct Epilogue8 {
  Finish finish;
  int32_t low, high;          // within [0, 255]
  float out_scale, out_zero;  // hard_swish
  const uint8_t* table;       // [256]; Finish::table
  const Map* residual;        // of the size of the result, or nullptr; none with Finish::real
  float residual_scale;
};

// Up to 64 output channels: `vectors` (1 to 4) times 16 lanes. Weights are [tap][depth / 4][16 * vectors][4]: each lane
// has four successive input channels. Lane 16 * v + l of a tile of four vectors is output first + 16 * (l / 4) + 4 * v
// + l % 4, so that saturating packs within 128 bits end in the order of channels; of other tiles it is first + 16 * v +
// l. Lanes without an output have weights, scales and biases of 0.
struct ConvTile {
  int32_t first;    // output channel; a multiple of 16 except behind a group
  int32_t outputs;  // of the 16 * vectors lanes, how many are channels
  int32_t vectors;
  int32_t channel;  // first input channel: 0 unless the convolution has groups
  int32_t depth;    // bytes of a tap, a multiple of 4; weights of channels that there are not are 0
  int32_t lane;     // of start, scale and bias
  int64_t weights;  // offset in PackedConv::weights, a multiple of 64
};

// A convolution as an implicit product: one row of weights for each tap, and a pointer to the pixel that it reads. Taps
// outside of the map read a line of zero points.
struct PackedConv {
  const ConvTile* tiles;
  int64_t tile_count;
  const int8_t* weights;        // at 64 bytes no load crosses a cache line, as is usual
  const int32_t* start;         // [lanes] -zero * sum(w): where sums of u8 codes start
  const int32_t* start_signed;  // [lanes] (128 - zero) * sum(w): where sums of q - 128 start
  const float *scale, *bias;    // [lanes]
  int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  // Filter rows are single taps of kernel_w * pixel bytes (few input channels, as in a stem): there are kernel_h taps,
  // dilation_w is 1, and the border of the input is at least as wide as the padding on every side.
  bool whole_rows;
};

// Output pixels [begin, end), counted over all images, rows and columns, of column tiles [tile_begin, tile_end).
struct ConvRange {
  int64_t begin, end, tile_begin, tile_end;
};

// `zeros`: at least as many bytes as the deepest tap has, and 64 more, all of them the zero point of the input.
// `real`: with Finish::real, result n of output pixel p goes to real[p * ld_real + n], and `out` has sizes alone.
using ConvFn = void(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out,
                    float* real, int64_t ld_real, const ConvRange& r);

// Depthwise: output channel c is made of input channel c alone. Weights are in the order of byte unpacks: vector p
// covers bytes 64 * p to 64 * p + 63 of a row of pixels, whose channels repeat every `pixel` bytes, and there are
// `period` = pixel / gcd(pixel, 64) of them. Byte 16 * l + 4 * v + e is at 64 * v + 4 * (4 * l + e): four taps of one
// filter row.
//   weights [period][kernel_h][groups][256], groups = (kernel_w + 3) / 4; taps that there are not have weights of 0
//   start, start_signed, scale, bias [period][64] in the same order: 16 * v + 4 * l + e
struct PackedDepthwise {
  int64_t pixel, period;  // the pixel of the input, and of the result
  const int8_t* weights;  // as in PackedConv
  const int32_t *start, *start_signed;
  const float *scale, *bias;
  int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
};

// Output rows [begin, end), counted over all images. The border of the input is at least as wide as the padding on
// every side. No residual.
using DepthwiseFn = void(const PackedDepthwise& w, const Epilogue8& e, const Map& in, const Map& out, int64_t begin,
                         int64_t end);

// Pixels of one image: rows [y0, y1), columns [x0, x1), at least one pixel.
struct Window {
  int64_t image, y0, y1, x0, x1;
};

// out[c] = the largest code in the window.
using MaxWindowFn = void(const Map& in, const Window& w, uint8_t* out);

// out[c] = sat(rint(float(sum - pixels * zero) * scale + out_zero)), the sum over the window in int32, `pixels` of it
// at most 2^22. scale = scale_in / (divisor * scale_out).
using AverageWindowFn = void(const Map& in, const Window& w, int32_t zero, float scale, float out_zero, uint8_t* out);

// n codes: v = (float(a) * scale_a + offset) + float(b) * scale_b, offset with all zero points; then Epilogue8 (clamp
// or table; no residual).
using AddCodesFn = void(const uint8_t* a, const uint8_t* b, int64_t n, float scale_a, float offset, float scale_b,
                        const Epilogue8& e, uint8_t* out);

// Squeeze and excite: out[p, c] = sat(rint(float((x[p, c] - zero) * (gate[c] - gate_zero)) * scale + out_zero)) for
// pixels that are `pixel` bytes apart (out_pixel in the result).
using MultiplyCodesFn = void(const uint8_t* x, int64_t pixel, const uint8_t* gate, int64_t pixels, int64_t channels,
                             int32_t zero, int32_t gate_zero, float scale, float out_zero, uint8_t* out,
                             int64_t out_pixel);

// out[i] = table[x[i]]; x may be out.
using LookUpFn = void(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out);

// One row of pixels of an image: out[x * out_pixel + c] = sat(rint(value * scale[c] + offset[c])), fp32, where value is
// at element c * plane + x * step of `x`, of type DType. Bytes from `channels` on to out_pixel are 0 at least up to the
// next multiple of 4. False: a value was NaN (its code is 0); infinity saturates.
using QuantizePixelsFn = bool(const void* x, int32_t type, int64_t plane, int64_t step, int64_t pixels,
                              int64_t channels, const float* scale, const float* offset, uint8_t* out,
                              int64_t out_pixel);

}  // namespace kdnative::cpu
