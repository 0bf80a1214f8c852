// linear_sparse: argument checks, allocation, work split.
#include "../cpu/sparse.h"

#include <atomic>

#include "../cpu/dispatch.h"
#include "../cpu/scratch.h"
#include "library.h"
#include "linear.h"
#include "tensor.h"

namespace kdnative {
namespace {

using cpu::DType;
using cpu::GemmRange;
using cpu::kTileN;

// Column tiles of a mask that are expanded at a time: several where the dense kernel prepares the rows for each call.
int64_t expanded_tiles(const cpu::Kernels& kernels, const cpu::PackedLinear& w) {
  return cpu::panel_bytes(kernels, w) == 0 ? 1 : 4;
}

// What multiply_mask needs: expanded_tiles(), then what the dense kernel needs.
int64_t tile_bytes(const cpu::PackedLinear& w) { return kTileN * w.k_pad; }
int64_t dense_bytes(const cpu::Kernels& kernels, const cpu::PackedLinear& w) {
  return expanded_tiles(kernels, w) * tile_bytes(w) + cpu::panel_bytes(kernels, w);
}

// Columns [column, column + kTileN * tiles) of a layer as a layer of their own, and its output.
cpu::PackedLinear dense_tiles(const cpu::PackedLinear& w, int64_t column, int64_t tiles, const uint8_t* data) {
  cpu::PackedLinear tile = w;
  tile.n = std::min(tiles * kTileN, w.n - column);
  tile.data = data;
  tile.scale += column;
  tile.column_sum += column;
  if (tile.bias != nullptr) tile.bias += column;
  return tile;
}

cpu::Epilogue moved(cpu::Epilogue e, int64_t column) {
  e.out = static_cast<uint8_t*>(e.out) + column * (e.out_type == DType::f32 ? 4 : 2);
  return e;
}

bool multiply_mask(const cpu::Kernels& kernels, const cpu::SparseLinear& w, const cpu::QuantizedRows& a,
                   const cpu::Epilogue& e, const GemmRange& range, uint8_t* dense) {
  if (range.m_end - range.m_begin <= kernels.mask_rows) return kernels.gemm_mask(w, a, e, range);
  const int64_t most = expanded_tiles(kernels, w.layer), size = tile_bytes(w.layer);
  auto* panel = reinterpret_cast<int8_t*>(dense + most * size);
  for (int64_t first = range.tile_begin; first < range.tile_end && first * kTileN < w.layer.n; first += most) {
    const int64_t tiles = std::min(most, range.tile_end - first), column = first * kTileN;
    for (int64_t t = 0; t < tiles; ++t)
      if (!kernels.expand_mask(w, first + t, reinterpret_cast<int8_t*>(dense + t * size))) return false;
    kernels.gemm_w8a8(dense_tiles(w.layer, column, tiles, dense), a, moved(e, column),
                      {range.m_begin, range.m_end, 0, tiles, panel});
  }
  return true;
}

// The layer for some rows; false where the packed weight does not hold together.
bool multiply_rows(const cpu::Kernels& kernels, const cpu::SparseLinear& w, const RowSource& rows, uint8_t* out,
                   cpu::Activation activation) {
  const bool blocks = w.format == cpu::SparseFormat::blocks;
  const int64_t k_pad = w.layer.k_pad, panels = (rows.rows + cpu::kPanelRows - 1) / cpu::kPanelRows;
  const int64_t of_thread = dense_bytes(kernels, w.layer);
  Carver count;
  const auto carve = [&](Carver& c, int8_t*& q, float*& scale, uint8_t*& work) {
    q = c.take<int8_t>(rows.rows * cpu::quantized_row_bytes(k_pad));
    scale = c.take<float>(rows.rows);
    work = c.take<uint8_t>(blocks ? panels * cpu::panel_bytes(k_pad) : thread_count() * of_thread);
  };
  int8_t* q;
  float* scale;
  uint8_t* work;  // activations laid out for blocks, or the memory of multiply_mask for each thread
  carve(count, q, scale, work);
  Carver place(scratch(count.used()));
  carve(place, q, scale, work);

  const cpu::QuantizedRows a{q, cpu::quantized_row_bytes(k_pad), scale, nullptr, k_pad};
  const cpu::Epilogue e{out, w.layer.n, rows.type, activation, nullptr, 0};
  std::atomic<bool> sound{true};
  share_out(
      rows.rows, w.layer, blocks ? cpu::kPanelRows : kernels.tile_rows, kSmallWork, true,
      [&](int64_t begin, int64_t end) {
        quantize_range(kernels, rows, nullptr, begin, end, k_pad, q, a.ld, scale, nullptr);
        if (blocks) kernels.arrange_rows(a, begin, end, work);
      },
      [&](const GemmRange& range, int64_t worker) {
        const bool right = blocks ? kernels.gemm_blocks(w, a, work, e, range)
                                  : multiply_mask(kernels, w, a, e, range, work + worker * of_thread);
        if (!right) sound = false;
      });
  return sound;
}

Tensor linear(const Tensor& x, const Tensor& packed, int64_t out_features, int64_t activation, int64_t form) {
  constexpr const char* op = "linear_sparse";
  require_cpu(x, op, "the input");
  require_header(op, form);
  require_packed(packed, op, "kdnative.formats.sparse.pack");
  cpu::SparseLinear w;
  if (const char* problem = cpu::parse_sparse(packed.data(), packed.sizes()[0], &w))
    fail(std::string(op) + ": " + problem);
  const RowSource rows = rows_of(x, op);
  require_fitting(x, rows, w.layer, op, out_features, activation);
  Tensor out = empty_output(x, rows, w.layer.n);
  bool sound = true;
  for_parts(rows, out.data(), w.layer.n, [&](const RowSource& part, uint8_t* part_out) {
    sound &= multiply_rows(cpu::kernels(), w, part, part_out, static_cast<cpu::Activation>(activation));
  });
  if (!sound) fail(std::string(op) + ": the packed weight is damaged (its indices or masks do not fit its sizes)");
  return out;
}

void boxed_linear(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor x = take_tensor(stack[0]), packed = take_tensor(stack[1]);
  stack[0] = give_tensor(linear(x, packed, take_int(stack[2]), take_int(stack[3]), take_int(stack[4])));
}

}  // namespace

void register_sparse(Library& library) {
  using namespace cpu;
  library.op("linear_sparse(Tensor x, Tensor packed, int out_features, int activation, int form=0) -> Tensor",
             "linear_sparse", boxed_linear,
             {{"gemm_blocks", origins_of<&Kernels::gemm_blocks>},
              {"arrange_rows", origins_of<&Kernels::arrange_rows>},
              {"gemm_mask", origins_of<&Kernels::gemm_mask>},
              {"expand_mask", origins_of<&Kernels::expand_mask>},
              {"gemm_w8a8", origins_of<&Kernels::gemm_w8a8>},
              {"quantize_rows", origins_of<&Kernels::quantize_rows>}});
}

}  // namespace kdnative
