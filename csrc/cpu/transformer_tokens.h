// The tokens that a forward pass works on: padding is dropped here, and every id is checked before any work is done.
#pragma once

#include <algorithm>
#include <cstdio>

#include "transformer.h"
#include "transformer_format.h"

namespace kdnative::cpu {

struct Token {
  int64_t index;  // in [0, B * T)
  int64_t id, position, token_type;
};

// Positions that the model has; -1: any number, as with relative ones alone.
inline int64_t position_count(const TransformerModel& m) {
  if (m.position.count == 0) return m.rotary_positions > 0 ? m.rotary_positions : -1;
  return m.rotary_positions > 0 ? std::min(m.position.count, m.rotary_positions) : m.position.count;
}

// Text for the caller, valid until the next call on this thread.
template <typename... Numbers>
const char* complain(const char* format, Numbers... numbers) {
  thread_local char text[320];
  std::snprintf(text, sizeof text, format, static_cast<long long>(numbers)...);
  return text;
}

// Writes the kept tokens in order, the column of each (unless that is nullptr) and, for each sequence, the index of its
// first one (batch + 1 entries).
inline const char* collect_tokens(const TransformerModel& m, const TransformerInputs& in, Token* tokens,
                                  int32_t* columns, int64_t* starts) {
  const int64_t positions = position_count(m);
  if (m.relative_bias != nullptr && in.tokens > m.bias_span + 1)
    return complain(
        "input_ids has %lld columns, but the model's relative positions reach over %lld; shorten the sequence",
        in.tokens, m.bias_span + 1);
  int64_t n = 0;
  for (int64_t b = 0; b < in.batch; ++b) {
    starts[b] = n;
    int64_t counted = m.padding_id;  // RoBERTa: tokens other than padding have positions padding_id + 1, + 2 ...
    for (int64_t t = 0; t < in.tokens; ++t) {
      const int64_t i = b * in.tokens + t, id = in.input_ids ? in.input_ids.at(b, t) : 0;
      const bool is_padding = m.padding_id >= 0 && id == m.padding_id;
      if (!is_padding) ++counted;
      if (in.mask != nullptr && (in.mask[i] != 0) == in.mask_is_padding) continue;
      int64_t position = m.padding_id < 0 ? t : is_padding ? m.padding_id : counted;
      if (in.position_ids) position = in.position_ids.at(b, t);
      const int64_t type = in.token_type_ids ? in.token_type_ids.at(b, t) : 0;
      if (in.input_ids && (id < 0 || id >= m.word.count))
        return complain(
            "input_ids[%lld, %lld] is %lld, but the vocabulary has ids 0 to %lld; was the text tokenised for "
            "another model?",
            b, t, id, m.word.count - 1);
      if (position < 0 || (positions >= 0 && position >= positions))
        return complain(
            "the token at [%lld, %lld] has position %lld, but the model has positions 0 to %lld; shorten the "
            "sequence (or correct position_ids)",
            b, t, position, positions - 1);
      if (m.token_type.count > 0 && (type < 0 || type >= m.token_type.count))
        return complain("token_type_ids[%lld, %lld] is %lld, but the model has token types 0 to %lld", b, t, type,
                        m.token_type.count - 1);
      if (columns != nullptr) columns[n] = static_cast<int32_t>(t);
      tokens[n++] = {i, id, position, type};
    }
  }
  starts[in.batch] = n;
  return nullptr;
}

}  // namespace kdnative::cpu
