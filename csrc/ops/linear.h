// Splitting one quantized linear layer over threads.
#pragma once

#include <algorithm>

#include "../cpu/kernels.h"
#include "../cpu/packed.h"
#include "rows.h"

namespace kdnative {

// The buffer of a packed weight: uint8, dense, on the CPU and aligned. `builder` is what makes one.
void require_packed(const Tensor& packed, const char* op, const char* builder);

// That the packed weight has the form of the CPU, whose number is 0: a header says the rest.
void require_header(const char* op, int64_t form);

// That the input and the other arguments of a linear operator belong to this weight.
void require_fitting(const Tensor& x, const RowSource& rows, const cpu::PackedLinear& w, const char* op,
                     int64_t out_features, int64_t activation);

// [..., N] for rows [..., K], in the dtype of x and on its device.
Tensor empty_output(const Tensor& x, const RowSource& rows, int64_t n);

// f(part, output of its rows) for parts of the rows, one after the other, so that what an operator keeps of its input
// (quantized, converted, laid out) stays small however many rows there are. Parts are even: kernels choose by rows.
template <typename F>
void for_parts(const RowSource& x, void* out, int64_t n, const F& f) {
  constexpr int64_t most = 4096;  // enough rows that reading the weights again for each part costs nothing
  const int64_t parts = (x.rows + most - 1) / most, size = x.type == cpu::DType::f32 ? 4 : 2;
  for (int64_t p = 0; p < parts; ++p) {
    const int64_t begin = x.rows * p / parts, end = x.rows * (p + 1) / parts;
    RowSource part = x;
    part.first = begin;
    part.rows = end - begin;
    f(part, static_cast<uint8_t*>(out) + begin * n * size);
  }
}

// Shares one product out to threads. prepare(begin, end) readies these rows (`copies`: it has something to do);
// multiply(range, worker) may run once its rows are ready, at the same time as other workers below thread_count().
// Ranges of rows begin at multiples of `row_unit`; below `smallest` multiply-adds one thread does it all.
template <typename Prepare, typename Multiply>
void share_out(int64_t rows, const cpu::PackedLinear& w, int64_t row_unit, int64_t smallest, bool copies,
               const Prepare& prepare, const Multiply& multiply) {
  const int64_t tiles = w.n_pad / cpu::kTileN;
  const cpu::Parallel pool = thread_pool();
  const int64_t threads = rows * w.n_pad * w.k_pad < smallest ? 1 : pool.threads;
  if (threads == 1) {
    prepare(0, rows);
    multiply(cpu::GemmRange{0, rows, 0, tiles}, 0);
    return;
  }
  // What the busiest thread would do. Columns cost another stage, and blocks of fewer rows are slower.
  const int64_t units = (rows + row_unit - 1) / row_unit;
  const int64_t by_rows = (units + threads - 1) / threads * row_unit * tiles;
  const int64_t by_columns = (tiles + threads - 1) / threads * rows;
  if (rows >= 64 * threads ? by_rows * 8 <= by_columns * 9 : by_rows * 3 <= by_columns * 2) {
    // Each thread prepares and multiplies rows of its own.
    const RowParts parts(rows, threads, row_unit);
    cpu::Stage stage;
    stage.tasks = parts.count();
    cpu::run_team(pool, stage.tasks, &stage, 1, [&](int64_t, int64_t part, int64_t worker) {
      prepare(parts.begin(part), parts.end(part));
      multiply(cpu::GemmRange{parts.begin(part), parts.end(part), 0, tiles}, worker);
    });
  } else {
    const RowParts parts(rows, copies && rows * w.k >= kSmallCopy ? threads : 1, row_unit);
    cpu::Stage stages[2];
    stages[0].tasks = parts.count();
    stages[1].tasks = std::min(threads, tiles);
    cpu::run_team(pool, std::max(stages[0].tasks, stages[1].tasks), stages, 2,
                  [&](int64_t stage, int64_t part, int64_t worker) {
                    if (stage == 0) return prepare(parts.begin(part), parts.end(part));
                    const int64_t chunks = stages[1].tasks;
                    multiply(cpu::GemmRange{0, rows, tiles * part / chunks, tiles * (part + 1) / chunks}, worker);
                  });
  }
}

}  // namespace kdnative
