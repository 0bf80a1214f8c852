// A whole stack of transformer layers in one call: embeddings (or hidden states of the caller), then layers with int8
// activations. The operators of encoders run it (csrc/ops/encoder.cpp).
#pragma once

#include "kernels.h"
#include "split.h"

namespace kdnative::cpu {

// Numbers [B, T] of int64 or int32, any strides.
struct Ids {
  const void* data;                   // nullptr: not given
  int64_t row_stride, column_stride;  // in elements
  bool wide;                          // int64

  explicit operator bool() const { return data != nullptr; }
  int64_t at(int64_t row, int64_t column) const {
    const int64_t i = row * row_stride + column * column_stride;
    return wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
};

// fp32 [B, T, hidden], the last dimension contiguous.
struct HiddenStates {
  const float* data;                   // nullptr: not given
  int64_t batch_stride, token_stride;  // in elements
};

struct TransformerInputs {
  const void* packed;  // encoder buffer (transformer_format.h), aligned to kAlignment
  int64_t packed_bytes;
  int64_t batch, tokens;       // B and T
  Ids input_ids;               // of a model with embeddings
  HiddenStates hidden_states;  // of a model without
  const uint8_t* mask;         // [B, T], 0 drops the token; nullptr keeps all
  bool mask_is_padding;        // the other way round: all but 0 drop it
  Ids token_type_ids;          // not given: all 0
  Ids position_ids;            // not given: the model's own counting
  int64_t hidden_size;         // what the caller allocated for; must be the buffer's
  int64_t states;              // the same; 0: only the last hidden state, otherwise layers + 1: every one
  bool causal;                 // no token attends to later ones
  const float* rotary;         // [rotary_tokens, 2, rotary_half]: cosines, then sines, in place of the model's rotary
  int64_t rotary_tokens;       // positions: of the T columns, or of all B * T tokens; nullptr: not given
  int64_t rotary_half;
};

// nullptr when the buffer's header says what the caller is about to allocate for: its width and, where every state is
// wanted, its layers. Otherwise what is wrong, as below.
const char* check_output(const TransformerInputs& in);

// out: fp32 [B, T, hidden_size], or [states, B, T, hidden_size]: what the first layer is given, then what each layer
// gives, the last one with the norm that ends the encoder. Rows of dropped tokens become 0. Every token that is kept
// attends to every kept token of its sequence, unless `causal` or a window says less. Returns nullptr, or what is wrong
// with the inputs, in words; the text is valid until the next call on this thread and nothing has been written then.
// Results do not depend on the number of threads. Working memory is scratch() of the calling thread, so no input may
// live there.
const char* transformer_forward(const Kernels& kernels, const Parallel& parallel, const TransformerInputs& in,
                                float* out);

}  // namespace kdnative::cpu
