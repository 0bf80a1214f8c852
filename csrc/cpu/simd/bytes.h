// The Bytes of KDNATIVE_ISA. Include vec.h first.
#pragma once

#if KDNATIVE_LANES(KDNATIVE_ISA) == 16
#include "ints_avx512.h"
// This is written against Ints and comes after it.
#include "bytes_avx512.h"
#elif KDNATIVE_LANES(KDNATIVE_ISA) == 8
#include "ints_avx2.h"
// This is written against Ints and comes after it.
#include "bytes_avx2.h"
#elif KDNATIVE_LANES(KDNATIVE_ISA) == 4
#include "bytes_neon.h"
#else
#error "the reference has plain loops instead"
#endif
