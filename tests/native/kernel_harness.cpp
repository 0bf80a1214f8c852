// Checks every kernel table this machine can run against plain loops, and times the GEMMs.
//
//   kernel_harness [--time] [--isa NAME]      exit status 1 when a check fails, 2 when NAME cannot run here
//
// Compiled by hand from the root of the repository (see tests/native/build_harness.sh); it needs no torch and no
// Python. The expected values come from unpacked weights and the rules in csrc/cpu/kernels.h, not from another kernel;
// only activations are compared with the reference table, and that table with double precision.
#include "../../csrc/cpu/dispatch.h"
#include "../../csrc/cpu/features.h"
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
#if defined(KDNATIVE_EMULATE_AMX)  // the tiles are software, the rest of these kernels is AVX-512
  if (features().avx512bf16 && !features().amx) add(amx_kernels());
#endif
  return tables;
}

}  // namespace

int main(int argc, char** argv) {
  bool timing = false;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--time") timing = true;
    if (std::string(argv[i]) == "--isa" && i + 1 < argc) only = argv[++i];
  }
  const Tables tables = tables_of(only);
  const std::string problem = tables.empty() ? select_isa(only) : "";
  if (!problem.empty()) {
    std::printf("%s\n", problem.c_str());
    return 2;
  }
  check_quantize(*reference_kernels());
  check_encoder(*reference_kernels());
  std::string names = "reference";
  for (const Kernels* t : tables) {
    check_quantize(*t);
    check_encoder(*t);
    names += std::string(" ") + t->isa;
  }
  check_gemms(tables);
  check_a16(tables);
  check_sparse(tables);
  std::printf("%s: %s, %d failed checks\n", failures == 0 ? "PASS" : "FAIL", names.c_str(), failures);
  if (timing) {
    for (const Kernels* t : tables) time_gemms(*t);
  }
  return failures == 0 ? 0 : 1;
}
