// Where the bytes that a mask kept belong, eight at a time.
#pragma once

#include <cstdint>

namespace kdnative::cpu {
namespace {

struct ExpandTable {  // for every mask of eight bytes: which of the packed bytes goes where; 0x80 is a zero
  uint8_t from[256][8];
};

constexpr ExpandTable make_expand_table() {
  ExpandTable table{};
  for (int mask = 0; mask < 256; ++mask) {
    uint8_t next = 0;
    for (int i = 0; i < 8; ++i) table.from[mask][i] = mask >> i & 1 ? next++ : uint8_t{0x80};
  }
  return table;
}

alignas(64) constexpr ExpandTable kExpandTable = make_expand_table();

}  // namespace
}  // namespace kdnative::cpu
