#include "dispatch.h"

#include <atomic>

#include "features.h"

namespace kdnative::cpu {
namespace {

struct Entry {
  const char* name;
  const Kernels* table;
  bool runnable;
};

const std::vector<Entry>& entries() {  // slowest first
  static const std::vector<Entry> all = {
      {"reference", reference_kernels(), true},
#if defined(KDNATIVE_X86)
      {"avx2", avx2_kernels(), features().avx2},
      {"avxvnni", avxvnni_kernels(), features().avxvnni},
      {"avx512vnni", avx512vnni_kernels(), features().avx512vnni},
      {"avx512bf16", avx512bf16_kernels(), features().avx512bf16},
      {"amx", amx_kernels(), features().amx},
#elif defined(KDNATIVE_ARM64)
      {"neon", neon_kernels(), features().neon},
      {"i8mm", i8mm_kernels(), features().i8mm},
#endif
  };
  return all;
}

const Kernels* best() {
  const Kernels* found = nullptr;
  for (const Entry& e : entries())
    if (e.runnable) found = e.table;
  return found;
}

std::atomic<const Kernels*> selected{nullptr};

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Entry& e : entries())
    if (e.runnable) names.push_back(e.name);
  return names;
}

std::string select_isa(const std::string& name) {
  if (name.empty()) {
    selected = best();
    return "";
  }
  std::string runnable, built;
  for (const Entry& e : entries()) {
    if (e.name == name && e.runnable) {
      selected = e.table;
      return "";
    }
    if (e.name == name) built = e.name;
    if (e.runnable) runnable += (runnable.empty() ? "" : ", ") + std::string(e.name);
  }
  return "instruction set '" + name + "' " +
         (built.empty() ? "is not one that this build has" : "cannot run on this processor") +
         "; possible here: " + runnable + ". Unset KDNATIVE_ISA to use the best one";
}

const Kernels* built_kernels(const std::string& name) {
  for (const Entry& e : entries())
    if (e.name == name) return e.table;
  return nullptr;
}

const Kernels& kernels() {
  const Kernels* table = selected.load(std::memory_order_relaxed);
  if (table == nullptr) {
    table = best();
    selected = table;
  }
  return *table;
}

}  // namespace kdnative::cpu
