// The encoder buffer (docs/packed_formats.md): built by kdnative/nn/encoder.py, only read here. Offsets are bytes from
// the start of the buffer and multiples of 64; every number is little-endian.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace kdnative::cpu {

constexpr int32_t kEncoderMagic = 0x4b444e45;  // "KDNE"

struct EncoderHeader {  // the first 128 bytes
  int32_t magic, version;
  int64_t bytes;  // size of the whole buffer
  int32_t layers, hidden;
  int32_t activation;  // of the feed-forward network, codes of Activation
  int32_t padding_id;  // -1: a token's position is its column; otherwise RoBERTa's counting, padding_id + 1 on
  int32_t vocabulary, positions, token_types;  // rows of the tables; token_types may be 0
  float eps;                                   // of every LayerNorm
  int64_t word, word_scale;                    // int8 [rows, hidden], float [rows]
  int64_t position, position_scale;
  int64_t token_type, token_type_scale;  // 0 without token types
  int64_t norm_weight, norm_bias;        // float [hidden], after the embeddings
  int64_t layer_table;                   // EncoderLayerRecord [layers]
  int64_t reserved;
};
static_assert(sizeof(EncoderHeader) == 128, "the header is 128 bytes on every machine");

struct EncoderLayerRecord {
  int32_t heads, head_dim, ffn;
  float scaling;           // of the attention scores
  int64_t qkv, qkv_bytes;  // packed linears: hidden -> [q heads | k heads | v heads]
  int64_t output, output_bytes;
  int64_t ffn_in, ffn_in_bytes;
  int64_t ffn_out, ffn_out_bytes;
  int64_t attention_norm_weight, attention_norm_bias;  // float [hidden]
  int64_t output_norm_weight, output_norm_bias;
  int64_t reserved[2];
};
static_assert(sizeof(EncoderLayerRecord) == 128, "a layer record is 128 bytes on every machine");

struct EmbeddingTable {
  const int8_t* rows;
  const float* scale;
  int64_t count;
};

struct EncoderLayer {
  int64_t heads, head_dim, ffn;
  float scaling;
  PackedLinear qkv, output, ffn_in, ffn_out;
  const float *attention_gamma, *attention_beta, *output_gamma, *output_beta;
};

struct EncoderModel {
  int64_t hidden;
  Activation activation;
  int64_t padding_id;
  float eps;
  EmbeddingTable word, position, token_type;
  const float *gamma, *beta;
  std::vector<EncoderLayer> layers;
};

// Reads sections of a buffer that is not trusted: a section that is not wholly inside it gives nullptr.
class EncoderReader {
 public:
  EncoderReader(const void* p, int64_t bytes) : base_(static_cast<const uint8_t*>(p)), bytes_(bytes) {}

  const char* read(EncoderModel* m) {
    EncoderHeader h;
    if (bytes_ < static_cast<int64_t>(sizeof h))
      return "the packed encoder is shorter than its header; convert it again";
    if (reinterpret_cast<uintptr_t>(base_) % 64 != 0)
      return "the packed encoder is not 64-byte aligned (a view into another tensor?); clone() it";
    std::memcpy(&h, base_, sizeof h);
    if (h.magic != kEncoderMagic)
      return "the tensor is not a packed encoder (wrong magic number); build it with kdnative.convert_";
    if (h.version != 1) return "the packed encoder has an unknown version; convert it again with this release";
    if (h.bytes != bytes_) return "the packed encoder is truncated or has trailing bytes";
    if (h.layers < 0 || h.hidden < 1 || h.vocabulary < 1 || h.positions < 1 || h.token_types < 0 || h.padding_id < -1 ||
        !(h.eps >= 0.0f))
      return "the packed encoder has impossible sizes";
    if (h.activation < 0 || h.activation > static_cast<int32_t>(Activation::tanh))
      return "the packed encoder has an unknown activation";
    m->hidden = h.hidden;
    m->activation = static_cast<Activation>(h.activation);
    m->padding_id = h.padding_id;
    m->eps = h.eps;
    m->word = table(h.word, h.word_scale, h.vocabulary, h.hidden);
    m->position = table(h.position, h.position_scale, h.positions, h.hidden);
    m->token_type = table(h.token_type, h.token_type_scale, h.token_types, h.hidden);
    m->gamma = section<float>(h.norm_weight, h.hidden);
    m->beta = section<float>(h.norm_bias, h.hidden);
    const auto* records = section<EncoderLayerRecord>(h.layer_table, h.layers);
    if (damaged_) return kDamaged;
    m->layers.resize(static_cast<size_t>(h.layers));
    for (int32_t i = 0; i < h.layers; ++i) {
      if (const char* problem = read_layer(records[i], h.hidden, &m->layers[static_cast<size_t>(i)])) return problem;
    }
    return nullptr;
  }

 private:
  static constexpr const char* kDamaged = "the packed encoder is damaged (a section lies outside it); convert it again";

  template <typename T>
  const T* section(int64_t offset, int64_t count) {
    const int64_t size = count * static_cast<int64_t>(sizeof(T));
    if (offset < static_cast<int64_t>(sizeof(EncoderHeader)) || offset % 64 != 0 || offset > bytes_ ||
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
    const bool fits = out->n == n && out->k == k && out->n_pad - n < kTileN && out->k_pad - k < kTileK;
    return fits ? nullptr : "a weight of the packed encoder has another shape than its layer says";
  }

  const char* read_layer(const EncoderLayerRecord& r, int64_t hidden, EncoderLayer* layer) {
    if (r.heads < 1 || r.head_dim < 1 || r.ffn < 1) return "the packed encoder has a layer of impossible sizes";
    const int64_t width = static_cast<int64_t>(r.heads) * r.head_dim;
    if (width > INT32_MAX / 3) return "the packed encoder has a layer of impossible sizes";
    layer->heads = r.heads;
    layer->head_dim = r.head_dim;
    layer->ffn = r.ffn;
    layer->scaling = r.scaling;
    const char* problem = linear(r.qkv, r.qkv_bytes, 3 * width, hidden, &layer->qkv);
    if (!problem) problem = linear(r.output, r.output_bytes, hidden, width, &layer->output);
    if (!problem) problem = linear(r.ffn_in, r.ffn_in_bytes, r.ffn, hidden, &layer->ffn_in);
    if (!problem) problem = linear(r.ffn_out, r.ffn_out_bytes, hidden, r.ffn, &layer->ffn_out);
    if (problem) return problem;
    layer->attention_gamma = section<float>(r.attention_norm_weight, hidden);
    layer->attention_beta = section<float>(r.attention_norm_bias, hidden);
    layer->output_gamma = section<float>(r.output_norm_weight, hidden);
    layer->output_beta = section<float>(r.output_norm_bias, hidden);
    return damaged_ ? kDamaged : nullptr;
  }

  const uint8_t* base_;
  int64_t bytes_;
  bool damaged_ = false;
};

}  // namespace kdnative::cpu
