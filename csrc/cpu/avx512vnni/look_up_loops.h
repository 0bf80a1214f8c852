// Loops around a look-up of 64 bytes: Table(const uint8_t*) and Codes Table::find(Codes). Include it after
// codes_avx512.h.
#pragma once

#include <cstdint>

namespace kdnative::cpu::avx512vnni {
namespace {

template <typename Table>
inline void for_rows(uint8_t* const* row, int64_t rows, int64_t first, int64_t n, const Table& table) {
  for (int64_t i = 0; i < rows; ++i) table.find(Codes::load(row[i] + first, n)).store(row[i] + first, n);
}

template <typename Table>
inline void for_line(const uint8_t* x, int64_t n, const Table& table, uint8_t* out) {
  int64_t i = 0;
  for (; i + Codes::width <= n; i += Codes::width) table.find(Codes::load(x + i)).store(out + i);
  if (i < n) table.find(Codes::load(x + i, n - i)).store(out + i, n - i);
}

}  // namespace
}  // namespace kdnative::cpu::avx512vnni
