// Splits rows into register blocks whose height is a compile-time constant; small helpers of the register blocks.
#pragma once

#include <cstdint>
#include <cstring>

#include "../kernels.h"

namespace kdnative::cpu {
namespace {

template <int rows>
struct Rows {
  static constexpr int count = rows;
};

template <int most, typename F>
inline void with_rows(int64_t rows, const F& f) {
  if constexpr (most == 1) {
    f(Rows<1>{});
  } else {
    if (rows == most) {
      f(Rows<most>{});
    } else {
      with_rows<most - 1>(rows, f);
    }
  }
}

// f(first row, Rows<n>) over [begin, end) in blocks of nearly equal heights n <= most.
template <int most, typename F>
inline void for_row_blocks(int64_t begin, int64_t end, const F& f) {
  for (int64_t r = begin, blocks = (end - begin + most - 1) / most; r < end; --blocks) {
    const int64_t rows = (end - r + blocks - 1) / blocks;
    with_rows<most>(rows, [&](auto count) { f(r, count); });
    r += rows;
  }
}

// What a sum of activations adds to a row's products where weights or activations are shifted by 128. With the widest
// layers it leaves int32, and so does the sum of products, which brings it back: both wrap.
inline int32_t of_shift(int32_t sum) { return static_cast<int32_t>(-128 * int64_t{sum}); }

// f(first, end) over the rows of a range, kRowChunk at a time.
template <typename F>
inline void for_row_chunks(const GemmRange& range, const F& f) {
  for (int64_t m = range.m_begin; m < range.m_end; m += kRowChunk)
    f(m, m + kRowChunk < range.m_end ? m + kRowChunk : range.m_end);
}

inline int32_t load_quad(const int8_t* p) {  // four activations, to be broadcast
  int32_t quad;
  std::memcpy(&quad, p, sizeof(quad));
  return quad;
}

// Sum of the activations of row r over columns [k, k + columns), to take the zero points of 4-bit weights out.
inline int32_t group_total(const QuantizedRows& a, int64_t r, int64_t k, int64_t columns) {
  const int32_t* sums = a.group_sum + static_cast<uint64_t>(r * a.k_pad + k) / 32;
  int32_t total = sums[0];  // of 32, 64 or 128 columns: a loop would be vectorised, at ten times the cost
  if (columns > 32) total += sums[1];
  if (columns > 64) total += sums[2] + sums[3];
  return total;
}

}  // namespace
}  // namespace kdnative::cpu
