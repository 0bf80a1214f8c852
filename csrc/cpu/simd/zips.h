// The Codes of KDNATIVE_ISA and what belongs to them. Include vec.h first.
#pragma once

#if KDNATIVE_LANES(KDNATIVE_ISA) == 16
#include "codes_avx512.h"
#include "ints_avx512.h"
// This is written against both and comes after them.
#include "zips_avx512.h"
#elif KDNATIVE_LANES(KDNATIVE_ISA) == 8
#include "codes_avx2.h"
#include "ints_avx2.h"
// This is written against both and comes after them.
#include "zips_avx2.h"
#elif KDNATIVE_LANES(KDNATIVE_ISA) == 4
#include "codes_neon.h"
// This is written against it and comes after it.
#include "zips_neon.h"
#else
#error "the reference has plain loops instead"
#endif
