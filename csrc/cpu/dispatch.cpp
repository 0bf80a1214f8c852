#include "dispatch.h"

#include <atomic>
#include <cstring>
#include <utility>

#include "features.h"

namespace kdnative::cpu {
namespace {

bool runnable(const Kernels& table) {
  const Features& f = features();
  const std::pair<const char*, bool> found[] = {
      {"reference", true},          {"avx2", f.avx2}, {"avxvnni", f.avxvnni}, {"avx512vnni", f.avx512vnni},
      {"avx512bf16", f.avx512bf16}, {"amx", f.amx},   {"neon", f.neon},       {"i8mm", f.i8mm},
  };
  for (const auto& [isa, runs] : found)
    if (std::strcmp(isa, table.isa) == 0) return runs;
  return false;
}

const Kernels* best() {
  const Kernels* found = nullptr;
  for (const Kernels* table : built_kernels())
    if (runnable(*table)) found = table;
  return found;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::atomic<const Kernels*> selected{nullptr};

}  // namespace

std::vector<std::string> built_isas() {
  std::vector<std::string> names;
  for (const Kernels* table : built_kernels()) names.push_back(table->isa);
  return names;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels* table : built_kernels())
    if (runnable(*table)) names.push_back(table->isa);
  return names;
}

std::string select_isa(const std::string& name) {
  const Kernels* const table = name.empty() ? best() : kernels_of(name);
  if (table != nullptr && runnable(*table)) {
    selected = table;
    return "";
  }
  const std::string problem =
      table != nullptr ? "instruction set '" + name + "' cannot run on this processor"
                       : "this build has no instruction set '" + name + "': it holds " + joined(built_isas());
  return problem + "; possible here: " + joined(available_isas()) + ". Unset KDNATIVE_ISA to use the best one";
}

const Kernels* kernels_of(const std::string& name) {
  for (const Kernels* table : built_kernels())
    if (table->isa == name) return table;
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
