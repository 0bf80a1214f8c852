// What the products of int8 activations share, however the weight lies: their arguments, and those that no kernel
// takes.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "kinds.h"
#include "quantize.h"
#include "w8a8_layout.h"

namespace gpu {

struct Int8Product {
  const int8_t* x;       // [m, k_pad], on 16 bytes, with zeros from column k on
  const float* scale_x;  // [m]
  const float* scale_w;  // [n], on 16 bytes
  const float* bias;     // [n], on 16 bytes, or nullptr
  const void* residual;  // [m, n] of out's type, added last; or nullptr
  void* out;             // [m, n]
  DType type;            // of out
  Activation activation;
  int64_t m, n;
  int64_t k_pad;  // a multiple of kW8A8PadK, at most kW8A8MostPadded
};

// Throws std::invalid_argument for sizes and addresses that no kernel takes, in words that begin with `shapes`.
inline void check_product(const Int8Product& a, const void* weight, const std::string& shapes) {
  if (a.m < 0 || a.n < 1 || a.k_pad < kW8A8PadK || a.k_pad % kW8A8PadK != 0 || a.k_pad > kW8A8MostPadded)
    throw std::invalid_argument(shapes + "rows of x must be padded to a multiple of 128, of at most 133144 columns");
  for (const void* at :
       {static_cast<const void*>(a.x), weight, static_cast<const void*>(a.scale_w), static_cast<const void*>(a.bias)})
    if (!lies_on(at, 16))
      throw std::invalid_argument(shapes + "x, the weight, its scale and the bias must lie on 16 bytes");
  if (a.m > kMostRows || a.n > kMostRows)
    throw std::invalid_argument(shapes + "at most " + std::to_string(kMostRows) + " rows and outputs are allowed; " +
                                "give fewer rows at a time");
}

// Whether four outputs of a row can be written at a time.
inline int writes_by_four(const Int8Product& a) { return reads_by_four(a.n, a.type, {a.out, a.residual}); }

}  // namespace gpu
