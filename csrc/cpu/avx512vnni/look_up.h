// The look-up of bytes with VBMI.
#pragma once

#include "../convolution.h"

namespace kdnative::cpu::avx512vnni {

LookUpFn look_up_vbmi;

}  // namespace kdnative::cpu::avx512vnni
