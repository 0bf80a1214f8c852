// What the operators that give int8 rows share on all devices: their results, and the arguments of a norm.
#pragma once

#include "rows.h"

namespace kdnative {

// Codes int8 [..., K], and a scale fp32 for each row [...].
struct QuantizedOutput {
  Tensor q, scale;

  QuantizedOutput(const RowSource& rows, Device device);
  int8_t* codes() const { return static_cast<int8_t*>(q.data()); }
  float* scales() const { return static_cast<float*>(scale.data()); }
  void give(StableIValue* stack);
};

// The arguments of norm_quantize.
struct NormCall {
  static constexpr const char* op = "norm_quantize";
  Tensor x, gamma, beta;  // beta and input_scale: none if they are not given
  float eps;
  Tensor input_scale;
  bool rms;

  explicit NormCall(StableIValue* stack);
  // The rows of x. Fails unless the vectors are fp32 [K], dense, where x is, and eps can be added.
  RowSource checked() const;
};

inline const float* floats_of(const Tensor& t) { return static_cast<const float*>(t.data()); }

}  // namespace kdnative
