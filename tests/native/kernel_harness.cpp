// Checks every kernel table this machine can run against plain loops, and times the GEMMs.
//
//   kernel_harness [--time] [--isa NAME] [--part NAME] [--stop]
//
// --isa leaves the other tables out (GEMMs always run the reference too), --part runs one of the parts below, --stop
// ends at the first failed check. Exit status 1 when a check fails, 2 when a name cannot run here.
//
// Compiled by hand from the root of the repository (see tests/native/build_harness.sh); it needs no torch and no
// Python. The expected values come from unpacked weights and the rules in csrc/cpu/kernels.h, not from another kernel;
// only activations are compared with the reference table, and that table with double precision.
#include "../../csrc/cpu/dispatch.h"
#include "harness/checks.h"

using namespace harness;

namespace {

// What the dispatcher offers, or the one table that is forced, beside the reference.
Tables tables_of(const std::string& only) {
  Tables tables;
  const auto add = [&](const Kernels* t) {
    if (t != reference_kernels() && (only.empty() || only == t->isa)) tables.push_back(t);
  };
  for (const std::string& name : available_isas()) {
    select_isa(name);
    add(&kernels());
  }
  return tables;
}

template <typename Subject>
struct Part {
  const char* name;
  void (*check)(const Subject&);
};

constexpr Part<Kernels> kParts[] = {
    {"quantize", check_quantize},   {"layer_norm", check_layer_norm},
    {"attention", check_attention}, {"add_scaled_int8", check_add_scaled_int8},
    {"rotate", check_rotate},       {"gate", check_gate},
    {"depthwise", check_depthwise}, {"codes", check_codes},
};
constexpr Part<Tables> kTableParts[] = {
    {"gemm", check_gemms}, {"a16", check_a16}, {"sparse", check_sparse}, {"conv", check_conv}};

}  // namespace

int main(int argc, char** argv) {
  bool timing = false;
  std::string only, only_part;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--time") timing = true;
    if (std::string(argv[i]) == "--stop") stop_at_first = true;
    if (std::string(argv[i]) == "--part" && i + 1 < argc) only_part = argv[++i];
    if (std::string(argv[i]) == "--isa" && i + 1 < argc) only = argv[++i];
  }
  const Tables tables = tables_of(only);
  const std::string problem = tables.empty() ? select_isa(only) : "";
  if (!problem.empty()) {
    std::printf("%s\n", problem.c_str());
    return 2;
  }
  bool known = false;
  const auto wanted = [&](const char* name) {
    const bool run = only_part.empty() || only_part == name;
    known |= run;
    return run;
  };
  for (const auto& part : kParts) {
    if (!wanted(part.name)) continue;
    if (tables.empty() || only.empty()) part.check(*reference_kernels());
    for (const Kernels* t : tables) part.check(*t);
  }
  for (const auto& part : kTableParts) {
    if (wanted(part.name)) part.check(tables);
  }
  if (!known) {
    std::printf("part '%s' is not one of this program\n", only_part.c_str());
    return 2;
  }
  std::string names = "reference";
  for (const Kernels* t : tables) names += std::string(" ") + t->isa;
  std::printf("%s: %s, %d failed checks\n", failures == 0 ? "PASS" : "FAIL", names.c_str(), failures);
  if (timing) {
    for (const Kernels* t : tables) time_gemms(*t);
  }
  return failures == 0 ? 0 : 1;
}
