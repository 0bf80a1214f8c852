// Tables of 256 bytes. vpermi2b of VBMI looks 64 bytes up at once; the first processors with VNNI (Cascade Lake, Cooper
// Lake) lack it and look up words, each of which has two entries.
#pragma once

#include "../convolution.h"

namespace kdnative::cpu::avx512vnni {

// row[i][j] = table[row[i][j]] for i < rows, first <= j < first + n, n <= 64. The table is aligned to 64 bytes.
using LookUpRowsFn = void(uint8_t* const* row, int64_t rows, int64_t first, int64_t n, const uint8_t* table);
LookUpRowsFn look_up_rows_vbmi, look_up_rows_words;
LookUpFn look_up_vbmi, look_up_words;

}  // namespace kdnative::cpu::avx512vnni
