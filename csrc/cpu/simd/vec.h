// The Vec of KDNATIVE_ISA: the instruction set that the build compiles a source of this folder for. Such a source is
// compiled once for each set that it serves, and puts its kernels into that set's namespace.
#pragma once

#define KDNATIVE_LANES_reference 1
#define KDNATIVE_LANES_neon 4
#define KDNATIVE_LANES_i8mm 4
#define KDNATIVE_LANES_avx2 8
#define KDNATIVE_LANES_avx512vnni 16

#define KDNATIVE_LANES_OF(isa) KDNATIVE_LANES_##isa
#define KDNATIVE_LANES(isa) KDNATIVE_LANES_OF(isa)

#if KDNATIVE_LANES(KDNATIVE_ISA) == 16
#include "vec_avx512.h"
#elif KDNATIVE_LANES(KDNATIVE_ISA) == 8
#include "vec_avx2.h"
#elif KDNATIVE_LANES(KDNATIVE_ISA) == 4
#include "vec_neon.h"
#elif KDNATIVE_LANES(KDNATIVE_ISA) == 1
#include "vec_scalar.h"
#else
#error "KDNATIVE_ISA must name an instruction set of the list above"
#endif
