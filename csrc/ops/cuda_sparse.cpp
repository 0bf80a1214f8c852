// Sparse int8 weights on a GPU: the rows of int8 weights, multiplied by what is stored of the weight.
#include "../cuda/blocks.h"
#include "../cuda/sparse24.h"
#include "cuda.h"

namespace kdnative::cuda {

void run_sparse24(const Call& call) {
  const gpu::Sparse24Offsets w(call.n, call.k, call.form.bias);
  call.require_bytes(w.bytes);
  const QuantizedRows rows(call, nullptr);
  gpu::sparse24(call.launcher, {rows.product(call, w.scale, call.form.bias ? w.bias : -1), call.packed});
}

void run_blocks(const Call& call) {
  const int side = call.form.block;
  if (side != 16 && side != 32 && side != 64)
    fail(std::string(call.op) + ": a form with blocks of " + std::to_string(side) + ", and 16, 32 and 64 are allowed");
  const gpu::BlocksOffsets w(call.n, side, call.form.bias, call.packed_bytes);
  if (w.units < 0)
    fail(std::string(call.op) + ": the packed weight has " + std::to_string(call.packed_bytes) +
         " bytes, which no weight of " + std::to_string(call.n) + " outputs in blocks of " + std::to_string(side) +
         " has: it is damaged");
  const auto ints = [&](int64_t at) { return reinterpret_cast<const int32_t*>(call.packed + at); };
  const QuantizedRows rows(call, nullptr);
  gpu::blocks(call.launcher, {rows.product(call, w.scale, call.form.bias ? w.bias : -1), side, w.units, call.packed,
                              ints(w.columns), ints(w.start)});
}

}  // namespace kdnative::cuda
