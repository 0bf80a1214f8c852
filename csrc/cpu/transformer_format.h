// The encoder buffer (docs/packed_formats.md): built by kdnative/nn/encoder_format.py, only read here. Offsets are
// bytes from the start of the buffer and multiples of 64; every number is little-endian.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace kdnative::cpu {

constexpr int32_t kTransformerMagic = 0x4b444e45;  // "KDNE"

struct TransformerHeader {  // the first 192 bytes
  int32_t magic, version;
  int64_t bytes;  // size of the whole buffer
  int32_t layers, hidden;
  int32_t activation;  // of the feed-forward network, codes of Activation
  int32_t padding_id;  // -1: a token's position is its column; otherwise RoBERTa's counting, padding_id + 1 on
  int32_t vocabulary, positions, token_types;  // rows of the tables; may be 0, all of them for layers alone
  float eps;                                   // of every LayerNorm
  int64_t word, word_scale;                    // int8 [rows, hidden], float [rows]
  int64_t position, position_scale;            // 0 without a table of positions
  int64_t token_type, token_type_scale;        // 0 without token types
  int64_t norm_weight, norm_bias;              // float [hidden], after the embeddings; 0 without these
  int64_t layer_table;                         // TransformerLayerRecord [layers]
  int32_t bias_heads, bias_span;               // of relative_bias
  int64_t relative_bias;  // float [bias_heads, 2 * bias_span + 1], by key column - query column + bias_span; or 0
  int32_t rotary_tables, rotary_positions, rotary_half, unused;
  int64_t rotary;        // float [rotary_tables, rotary_positions, 2, rotary_half]: cosines, then sines; or 0
  int64_t bias_buckets;  // what relative_bias was expanded from, for Python; not read here
  int64_t reserved[3];
};
static_assert(sizeof(TransformerHeader) == 192, "the header is 192 bytes on every machine");

struct NormRecord {
  int64_t weight, bias;  // float [hidden]; both 0 where there is none
};

struct TransformerLayerRecord {
  int32_t heads, head_dim, ffn;
  float scaling;   // of the attention scores
  int32_t gated;   // 1: ffn_in gives 2 * ffn columns, and activation(first half) * second half goes on
  int32_t window;  // attention reaches this many columns to either side; -1: everything
  int32_t rotary;  // which rotary table turns queries and keys; -1: none
  int32_t unused;
  int64_t qkv, qkv_bytes;  // packed linears: hidden -> [q heads | k heads | v heads]
  int64_t output, output_bytes;
  int64_t ffn_in, ffn_in_bytes;
  int64_t ffn_out, ffn_out_bytes;
  NormRecord attention_before, attention_after, ffn_before, ffn_after;
  int64_t reserved[4];
};
static_assert(sizeof(TransformerLayerRecord) == 192, "a layer record is 192 bytes on every machine");

struct EmbeddingTable {
  const int8_t* rows;
  const float* scale;
  int64_t count;
};

struct Norm {  // nullptr: there is none
  const float *gamma, *beta;
};

struct TransformerLayer {
  int64_t heads, head_dim, ffn;
  float scaling;
  bool gated;
  int64_t window;
  const float* rotary;  // the table of this layer, or nullptr
  PackedLinear qkv, output, ffn_in, ffn_out;
  // A LayerNorm before a part normalises what the part reads; one after it normalises the sum that the next part adds
  // to.
  Norm attention_before, attention_after, ffn_before, ffn_after;
};

struct TransformerModel {
  int64_t hidden;
  Activation activation;
  int64_t padding_id;
  float eps;
  EmbeddingTable word, position, token_type;
  Norm norm;
  const float* relative_bias;  // or nullptr
  int64_t bias_heads, bias_span;
  int64_t rotary_positions, rotary_half;  // 0 without rotary tables
  std::vector<TransformerLayer> layers;
};

// Reads sections of a buffer that is not trusted: a section that is not wholly inside it gives nullptr.
class TransformerReader {
 public:
  TransformerReader(const void* p, int64_t bytes) : base_(static_cast<const uint8_t*>(p)), bytes_(bytes) {}

  // The header alone, before anything that it says is believed.
  const char* read_header(TransformerHeader* h) const {
    if (bytes_ < static_cast<int64_t>(sizeof *h))
      return "the packed encoder is shorter than its header; convert it again";
    if (reinterpret_cast<uintptr_t>(base_) % kAlignment != 0)
      return "the packed encoder is not 8-byte aligned (a view into another tensor?); clone() it";
    std::memcpy(h, base_, sizeof *h);
    if (h->magic != kTransformerMagic)
      return "the tensor is not a packed encoder (wrong magic number); build it with kdnative.convert_";
    if (h->version != 2) return "the packed encoder has an unknown version; convert it again with this release";
    return h->bytes == bytes_ ? nullptr : "the packed encoder is truncated or has trailing bytes";
  }

  const char* read(TransformerModel* m) {
    TransformerHeader h;
    if (const char* problem = read_header(&h)) return problem;
    if (h.layers < 0 || h.hidden < 1 || h.vocabulary < 0 || h.positions < 0 || h.token_types < 0 || h.padding_id < -1 ||
        !(h.eps >= 0.0f))
      return kSizes;
    if (h.vocabulary == 0 && (h.positions > 0 || h.token_types > 0 || h.padding_id >= 0)) return kSizes;
    if (h.activation < 0 || h.activation > static_cast<int32_t>(Activation::tanh))
      return "the packed encoder has an unknown activation";
    m->hidden = h.hidden;
    m->activation = static_cast<Activation>(h.activation);
    m->padding_id = h.padding_id;
    m->eps = h.eps;
    m->word = table(h.word, h.word_scale, h.vocabulary, h.hidden);
    m->position = table(h.position, h.position_scale, h.positions, h.hidden);
    m->token_type = table(h.token_type, h.token_type_scale, h.token_types, h.hidden);
    m->norm = norm({h.norm_weight, h.norm_bias}, h.hidden);
    if ((m->norm.gamma == nullptr) != (h.vocabulary == 0)) return kDamaged;
    if (const char* problem = read_positions(h, m)) return problem;
    const auto* records = section<TransformerLayerRecord>(h.layer_table, h.layers);
    if (damaged_) return kDamaged;
    m->layers.resize(static_cast<size_t>(h.layers));
    for (int32_t i = 0; i < h.layers; ++i) {
      if (const char* problem = read_layer(records[i], *m, h, &m->layers[static_cast<size_t>(i)])) return problem;
    }
    return nullptr;
  }

 private:
  static constexpr const char* kSizes = "the packed encoder has impossible sizes";
  static constexpr const char* kDamaged = "the packed encoder is damaged (a section lies outside it); convert it again";

  template <typename T>
  const T* section(int64_t offset, int64_t count) {
    const int64_t size = count * static_cast<int64_t>(sizeof(T));
    if (offset < static_cast<int64_t>(sizeof(TransformerHeader)) || offset % 64 != 0 || offset > bytes_ ||
        size > bytes_ - offset) {
      damaged_ = true;
      return nullptr;
    }
    return reinterpret_cast<const T*>(base_ + offset);
  }

  EmbeddingTable table(int64_t rows, int64_t scale, int64_t count, int64_t hidden) {
    if (count == 0) return {nullptr, nullptr, 0};
    return {section<int8_t>(rows, count * hidden), section<float>(scale, count), count};
  }

  const char* linear(int64_t offset, int64_t bytes, int64_t n, int64_t k, PackedLinear* out) {
    if (bytes < 0) return kDamaged;
    const auto* p = section<uint8_t>(offset, bytes);
    if (damaged_) return kDamaged;
    if (const char* problem = parse_packed(p, bytes, 0, out)) return problem;
    if (const char* problem = check_sums(out->k, out->bits != 8 && out->group_scale == nullptr)) return problem;
    const bool fits = out->n == n && out->k == k && out->n_pad - n < kTileN && out->k_pad - k < kTileK;
    return fits ? nullptr : "a weight of the packed encoder has another shape than its layer says";
  }

  Norm norm(const NormRecord& r, int64_t hidden) {
    if (r.weight == 0 && r.bias == 0) return {nullptr, nullptr};
    return {section<float>(r.weight, hidden), section<float>(r.bias, hidden)};
  }

  const char* read_positions(const TransformerHeader& h, TransformerModel* m) {
    constexpr int32_t kMost = 1 << 24;  // keeps the products below in range
    m->relative_bias = nullptr;
    m->bias_heads = m->bias_span = m->rotary_positions = m->rotary_half = 0;
    if (h.relative_bias != 0) {
      if (h.bias_heads < 1 || h.bias_span < 0 || h.bias_heads > kMost || h.bias_span > kMost) return kSizes;
      m->bias_heads = h.bias_heads;
      m->bias_span = h.bias_span;
      m->relative_bias = section<float>(h.relative_bias, m->bias_heads * (2 * m->bias_span + 1));
    }
    if (h.rotary_tables != 0) {
      if (h.rotary_tables < 0 || h.rotary_positions < 1 || h.rotary_half < 1) return kSizes;
      if (h.rotary_tables > 1024 || h.rotary_positions > kMost || h.rotary_half > kMost / 1024) return kSizes;
      m->rotary_positions = h.rotary_positions;
      m->rotary_half = h.rotary_half;
      rotary_ = section<float>(h.rotary, h.rotary_tables * rotary_size(*m));
    }
    return damaged_ ? kDamaged : nullptr;
  }

  static int64_t rotary_size(const TransformerModel& m) { return m.rotary_positions * 2 * m.rotary_half; }

  const char* read_layer(const TransformerLayerRecord& r, const TransformerModel& m, const TransformerHeader& h,
                         TransformerLayer* layer) {
    const int64_t hidden = m.hidden;
    if (r.heads < 1 || r.head_dim < 1 || r.ffn < 1 || r.ffn > INT32_MAX / 2) return kSizes;
    const int64_t width = static_cast<int64_t>(r.heads) * r.head_dim;
    if (width > INT32_MAX / 3 || r.window < -1 || r.rotary < -1 || r.rotary >= h.rotary_tables) return kSizes;
    if (m.relative_bias != nullptr && r.heads != m.bias_heads)
      return "the packed encoder has a layer whose heads are not those of its relative positions";
    if (r.rotary >= 0 && r.head_dim != 2 * m.rotary_half)
      return "the packed encoder has a layer whose heads are not as wide as its rotary positions";
    layer->gated = r.gated != 0;
    layer->window = r.window;
    layer->rotary = r.rotary < 0 ? nullptr : rotary_ + r.rotary * rotary_size(m);
    layer->heads = r.heads;
    layer->head_dim = r.head_dim;
    layer->ffn = r.ffn;
    layer->scaling = r.scaling;
    const char* problem = linear(r.qkv, r.qkv_bytes, 3 * width, hidden, &layer->qkv);
    if (!problem) problem = linear(r.output, r.output_bytes, hidden, width, &layer->output);
    if (!problem) problem = linear(r.ffn_in, r.ffn_in_bytes, (layer->gated ? 2 : 1) * r.ffn, hidden, &layer->ffn_in);
    if (!problem) problem = linear(r.ffn_out, r.ffn_out_bytes, hidden, r.ffn, &layer->ffn_out);
    if (problem) return problem;
    layer->attention_before = norm(r.attention_before, hidden);
    layer->attention_after = norm(r.attention_after, hidden);
    layer->ffn_before = norm(r.ffn_before, hidden);
    layer->ffn_after = norm(r.ffn_after, hidden);
    return damaged_ ? kDamaged : nullptr;
  }

  const uint8_t* base_;
  int64_t bytes_;
  const float* rotary_ = nullptr;
  bool damaged_ = false;
};

}  // namespace kdnative::cpu
