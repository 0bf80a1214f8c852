// Picks the kernel table: the best the machine has, or the one that is forced.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace kdnative::cpu {

// Names of the tables of this build, slowest first; "reference" always leads.
std::vector<std::string> built_isas();

// Those of them that this machine can run.
std::vector<std::string> available_isas();

// Forces a table by name; an empty name means the best one. Returns "" or, when the name is impossible, why.
std::string select_isa(const std::string& name);

// A table of this build by name, whether this machine can run it or not; nullptr when there is none.
const Kernels* kernels_of(const std::string& name);

// The selected table.
const Kernels& kernels();

}  // namespace kdnative::cpu
