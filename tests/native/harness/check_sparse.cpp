// Sparse weights against plain loops, on every table, and damaged ones, whose buffers end where a sanitizer looks.
#if defined(KDNATIVE_HAS_avx512vnni)
#include "../../../csrc/cpu/avx512vnni/gemm_mask.h"
#endif
#include "../../../csrc/cpu/dispatch.h"
#include "../../../csrc/cpu/features.h"
#include "checks.h"
#include "linear.h"

namespace harness {
namespace {

// A packed sparse layer, built here by the layout in csrc/cpu/sparse.h, and its plain weights.
struct SparseLayer {
  SparseLayer(SparseFormat format, int64_t n, int64_t k, double zeros)
      : n(n), k(k), n_pad(round_up(n, 32)), k_pad(round_up(k, 64)), weight(n_pad * k_pad, 0) {
    const bool blocks = format == SparseFormat::blocks;
    std::bernoulli_distribution zero(zeros);
    for (int64_t c = 0; c < n; c += blocks ? 4 : 1) {
      for (int64_t i = 0; i < k; ++i) {
        if (zero(rng)) continue;
        for (int64_t j = c; j < std::min(n, c + (blocks ? 4 : 1)); ++j)
          weight[j * k_pad + i] = static_cast<int8_t>(random_int(-127, 127));
      }
    }
    std::vector<int8_t> values;
    std::vector<uint16_t> index;
    std::vector<uint64_t> mask;
    std::vector<int64_t> start = {0};
    if (blocks) {
      pack_blocks(values, index, start);
    } else {
      pack_mask(values, mask, start);
    }
    std::vector<float> scale(n_pad);
    for (float& s : scale) s = 0.001f + std::fabs(random_float(0.01f));
    std::vector<int32_t> sums(n_pad, 0);
    for (int64_t c = 0; c < n_pad; ++c) {
      for (int64_t i = 0; i < k_pad; ++i) sums[c] += weight[c * k_pad + i];
    }
    SparseHeader h{};
    h.magic = kSparseMagic, h.version = 1, h.bits = 8, h.format = static_cast<int32_t>(format);
    h.n = static_cast<int32_t>(n), h.k = static_cast<int32_t>(k);
    h.n_pad = static_cast<int32_t>(n_pad), h.k_pad = static_cast<int32_t>(k_pad);
    h.count = start.back();
    if (!blocks) values.resize(values.size() + kMaskSpare);
    bytes.resize(sizeof h);
    h.values = add(values);
    h.index = blocks ? add(index) : add(mask);
    h.start = add(start);
    h.scale = add(scale);
    h.column_sum = add(sums);
    h.bytes = static_cast<int64_t>(bytes.size());
    std::memcpy(bytes.data(), &h, sizeof h);
    header = h;
  }

  void pack_blocks(std::vector<int8_t>& values, std::vector<uint16_t>& index, std::vector<int64_t>& start) {
    for (int64_t c = 0; c < n_pad; c += 4) {
      std::vector<uint16_t> kept;
      for (int64_t i = 0; i < k_pad; ++i) {
        bool any = false;
        for (int64_t j = c; j < c + 4; ++j) any |= weight[j * k_pad + i] != 0;
        if (any) kept.push_back(static_cast<uint16_t>(i));
      }
      const size_t used = kept.size();
      while (kept.size() % 4 != 0) kept.push_back(kept.back());
      for (size_t q = 0; q < kept.size(); q += 4) {
        for (int64_t j = c; j < c + 4; ++j)
          for (size_t i = q; i < q + 4; ++i) values.push_back(i < used ? weight[j * k_pad + kept[i]] : int8_t{0});
      }
      index.insert(index.end(), kept.begin(), kept.end());
      start.push_back(static_cast<int64_t>(index.size()) / 4);
    }
  }

  void pack_mask(std::vector<int8_t>& values, std::vector<uint64_t>& mask, std::vector<int64_t>& start) {
    for (int64_t c = 0; c < n_pad; c += 16) {
      for (int64_t i = 0; i < k_pad; i += 4) {
        uint64_t bits = 0;
        for (int64_t at = 0; at < 64; ++at) {
          const int8_t v = weight[(c + at / 4) * k_pad + i + at % 4];
          if (v == 0) continue;
          bits |= uint64_t{1} << at;
          values.push_back(static_cast<int8_t>(v ^ -128));
        }
        mask.push_back(bits);
      }
      start.push_back(static_cast<int64_t>(values.size()));
    }
  }

  template <typename T>
  int64_t add(const std::vector<T>& part) {
    const int64_t at = static_cast<int64_t>(bytes.size());
    const auto* raw = reinterpret_cast<const uint8_t*>(part.data());
    bytes.insert(bytes.end(), raw, raw + part.size() * sizeof(T));
    bytes.resize(round_up(static_cast<int64_t>(bytes.size()), 64));
    return at;
  }

  int64_t n, k, n_pad, k_pad;
  std::vector<int8_t> weight;
  std::vector<uint8_t> bytes;
  SparseHeader header;
};

// What linear_sparse does, with the range that a thread would get.
bool multiply(const Kernels& t, const SparseLinear& w, const QuantizedRows& a, float* out, GemmRange r, bool expand) {
  const int64_t k_pad = w.layer.k_pad;
  const Epilogue e = {out, w.layer.n, DType::f32, Activation::none, nullptr, 0};
  if (w.format == SparseFormat::blocks) {
    Buffer<uint8_t> panels((r.m_end + kPanelRows - 1) / kPanelRows * panel_bytes(k_pad));
    t.arrange_rows(a, r.m_begin, r.m_end, panels.get());
    return t.gemm_blocks(w, a, panels.get(), e, r);
  }
  if (!expand) return t.gemm_mask(w, a, e, r);
  Buffer<uint8_t> dense(w.layer.n_pad * k_pad);
  for (int64_t tile = r.tile_begin; tile < r.tile_end; ++tile)
    if (!t.expand_mask(w, tile, reinterpret_cast<int8_t*>(dense.get() + tile * kTileN * k_pad))) return false;
  PackedLinear layer = w.layer;
  layer.data = dense.get();
  Buffer<int8_t> panel(panel_bytes(t, layer));
  r.panel = panel.get();
  t.gemm_w8a8(layer, a, e, r);
  return true;
}

// Whether there is a product without a dense form in memory.
bool in_registers(const Kernels& t, const SparseLinear& w) {
  return t.gemm_mask != nullptr && w.format == SparseFormat::mask;
}

void check_layer(const Tables& tables, SparseLayer& layer, int64_t m, const std::string& name) {
  Rows a(m, layer.k, false);
  Buffer<uint8_t> packed(static_cast<int64_t>(layer.bytes.size()));
  std::memcpy(packed.get(), layer.bytes.data(), layer.bytes.size());
  SparseLinear w;
  const char* problem = parse_sparse(packed.get(), packed.size, &w);
  check(problem == nullptr, "parse", name + ": " + (problem == nullptr ? "" : problem));
  if (problem != nullptr) return;
  Buffer<float> expected(m * layer.n);
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < layer.n; ++c) {
      int64_t sum = 0;
      for (int64_t i = 0; i < layer.k; ++i) sum += int64_t{a.q[r * a.ld + i]} * layer.weight[c * layer.k_pad + i];
      expected[r * layer.n + c] = static_cast<float>(sum) * (a.scale[r] * w.layer.scale[c]);
    }
  }
  const int64_t tiles = layer.n_pad / kTileN;
  for (const Kernels* t : tables) {
    for (const bool expand : {true, false}) {
      if (!expand && !in_registers(*t, w)) continue;
      Buffer<float> out(m * layer.n);
      const int64_t row = random_int(0, m / kPanelRows) * kPanelRows, tile = random_int(0, tiles);
      const int64_t rows[3] = {0, row, m}, columns[3] = {0, tile, tiles};
      bool sound = true;
      for (int i = 0; i < 4; ++i) {
        const GemmRange part = {rows[i / 2], rows[i / 2 + 1], columns[i % 2], columns[i % 2 + 1]};
        sound = multiply(*t, w, a.view(), out.get(), part, expand) && sound;
      }
      check(sound, t->isa, name + ": a sound weight is called damaged");
      bool same = true;
      for (int64_t i = 0; i < m * layer.n; ++i)
        same = same && (std::isnan(expected[i]) ? std::isnan(out[i]) : out[i] == expected[i]);
      check(same, t->isa, name);
    }
  }
}

// Random bytes anywhere, and indices or masks as large as they can be: a report or a wrong result, never an access
// outside the buffer.
void check_damage(const Tables& tables, SparseLayer& layer, int64_t m) {
  Rows a(m, layer.k, false);
  const auto damaged = [&](const auto& damage) {
    Buffer<uint8_t> packed(static_cast<int64_t>(layer.bytes.size()));
    std::memcpy(packed.get(), layer.bytes.data(), layer.bytes.size());
    damage(packed.get());
    SparseLinear w;
    if (parse_sparse(packed.get(), packed.size, &w) != nullptr) return;
    if (w.layer.n != layer.n || w.layer.k_pad != layer.k_pad ||
        w.format != static_cast<SparseFormat>(layer.header.format))
      return;  // the operator compares these with its other arguments
    for (const Kernels* t : tables) {
      for (const bool expand : {true, false}) {
        if (!expand && !in_registers(*t, w)) continue;
        Buffer<float> out(m * layer.n);
        multiply(*t, w, a.view(), out.get(), {0, m, 0, layer.n_pad / kTileN}, expand);
      }
    }
  };
  const auto bad = [&](int64_t first, int64_t end, int count) {
    damaged([&](uint8_t* bytes) {
      for (int i = 0; i < count; ++i) bytes[random_int(first, end - 1)] = static_cast<uint8_t>(random_int(0, 255));
    });
  };
  const int64_t size = static_cast<int64_t>(layer.bytes.size()), index = layer.header.start - layer.header.index;
  for (int64_t first = 0; first < 4; ++first) {  // of 16 of the 64 outputs, and of those that follow them too
    for (const int64_t count : {int64_t{1}, 4 - first}) {
      damaged([&](uint8_t* bytes) {
        std::memset(bytes + layer.header.index + first * index / 4, 0xff, static_cast<size_t>(count * index / 4));
      });
    }
  }
  for (int i = 0; i < 10; ++i) {
    bad(0, sizeof(SparseHeader), 2);
    bad(layer.header.index, layer.header.start, 30);
    bad(layer.header.start, layer.header.scale, 1);
    bad(0, size, 20);
  }
}

// An index that is one beyond the end, at any place of the first and the last quad.
void check_bounds(const Tables& tables, SparseLayer& layer, int64_t m) {
  Rows a(m, layer.k, false);
  const int64_t indices = 4 * layer.header.count;
  for (const int64_t place : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{3}, indices - 4, indices - 1}) {
    Buffer<uint8_t> packed(static_cast<int64_t>(layer.bytes.size()));
    std::memcpy(packed.get(), layer.bytes.data(), layer.bytes.size());
    const auto beyond = static_cast<uint16_t>(layer.k_pad);
    std::memcpy(packed.get() + layer.header.index + 2 * place, &beyond, sizeof beyond);
    SparseLinear w;
    check(parse_sparse(packed.get(), packed.size, &w) == nullptr, "parse", "4x1 with an index that is too large");
    for (const Kernels* t : tables) {
      Buffer<float> out(m * layer.n);
      const bool taken = multiply(*t, w, a.view(), out.get(), {0, m, 0, layer.n_pad / kTileN}, false);
      check(!taken, t->isa, "4x1: index " + std::to_string(place) + " is k_pad, and nothing was said");
    }
  }
}

}  // namespace

void check_sparse(const Tables& given) {
  Tables tables = given;
  tables.push_back(reference_kernels());
#if defined(KDNATIVE_HAS_avx512vnni)
  Kernels first = *kernels_of("avx512vnni");  // as on the first processors with VNNI
  first.isa = "avx512vnni without VBMI2";
  first.expand_mask = avx512vnni::expand_mask_table;
  first.gemm_mask = avx512vnni::gemm_mask_table;
  if (features().avx512vnni) tables.push_back(&first);
#endif
  const int64_t ms[] = {1, 2, 7, 8, 9, 15, 16, 17, 32, 33, 63, 64, 65, 130};
  const int64_t ns[] = {1, 7, 16, 31, 32, 33, 64, 100}, ks[] = {1, 5, 63, 64, 65, 130, 384, 1000};
  const double shares[] = {0, 0.3, 0.6, 0.9, 1};
  const auto pick = [](const auto& list) { return list[random_int(0, std::size(list) - 1)]; };
  for (int i = 0; i < 84; ++i) {
    const auto format = i % 2 == 0 ? SparseFormat::blocks : SparseFormat::mask;
    const int64_t m = ms[i / 2 % std::size(ms)], n = pick(ns), k = pick(ks);
    const double zeros = shares[i % std::size(shares)];
    SparseLayer layer(format, n, k, zeros);
    char name[120];
    std::snprintf(name, sizeof name, "%s m=%ld n=%ld k=%ld zeros=%.1f", i % 2 ? "mask" : "4x1", static_cast<long>(m),
                  static_cast<long>(n), static_cast<long>(k), zeros);
    check_layer(tables, layer, m, name);
  }
  for (const int64_t m : {1, 20, 70}) {
    SparseLayer blocks(SparseFormat::blocks, 64, 192, 0.7), mask(SparseFormat::mask, 64, 192, 0.7);
    check_damage(tables, blocks, m);
    check_damage(tables, mask, m);
    check_bounds(tables, blocks, m);
  }
  // Long enough that streams without end would leave the buffer behind all of its other sections.
  SparseLayer mask(SparseFormat::mask, 64, 4096, 0.9);
  check_damage(tables, mask, 1);
}

}  // namespace harness
