// Picks the kernel table: the best the machine has, or the one that is forced.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace kdnative::cpu {

// Names of the tables that this build contains and this machine can run, slowest first; "reference" always leads.
std::vector<std::string> available_isas();

// Forces a table by name; an empty name means the best one. Returns "" or, when the name is impossible, why.
std::string select_isa(const std::string& name);

// A table of this build by name, whether this machine can run it or not; nullptr when there is none.
const Kernels* built_kernels(const std::string& name);

// The selected table.
const Kernels& kernels();

}  // namespace kdnative::cpu
