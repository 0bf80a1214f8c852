// Whose kernels an operator runs, read off the kernel table: a kernel is of the first set, along the chain of bases,
// that has it.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace kdnative::cpu {

struct Origin {
  const char* isa;
  std::string what;  // "gemm_w8a8 above 4 rows"
};

// A kernel that an operator may call: its name in `Kernels`, and origins_of its member there.
struct KernelUse {
  const char* name;
  std::vector<Origin> (*origins)(const Kernels& table, const char* name);
};

template <typename Fn>
bool holds(Fn* entry, Fn* kernel) {
  return entry == kernel;
}
inline bool holds(const Gemm& entry, GemmFn* kernel) { return entry.kernel == kernel || entry.few == kernel; }

template <auto member, typename Fn>
const char* origin_of(const Kernels* table, Fn* kernel) {
  while (table->base != nullptr && holds(table->base->*member, kernel)) table = table->base;
  return table->isa;
}

template <auto member>
std::vector<Origin> origins_of(const Kernels& table, const char* name) {
  if constexpr (std::is_same_v<decltype(member), Gemm Kernels::*>) {
    const Gemm& gemm = table.*member;
    if (gemm.few == nullptr) return {{origin_of<member>(&table, gemm.kernel), name}};
    const std::string rows = std::to_string(gemm.few_rows) + " rows";
    return {{origin_of<member>(&table, gemm.kernel), name + (" above " + rows)},
            {origin_of<member>(&table, gemm.few), name + (" up to " + rows)}};
  } else {
    if (table.*member == nullptr) return {};
    return {{origin_of<member>(&table, table.*member), name}};
  }
}

// "avx2" where all kernels are of one set, otherwise the sets from the table's own down, and what they run:
// "amx (gemm_w8a8 above 4 rows), avx512vnni". The last one runs the rest.
inline std::string describe(const Kernels& table, const std::vector<KernelUse>& uses) {
  std::vector<std::pair<std::string, std::string>> sets;  // and what each runs
  for (const Kernels* t = &table; t != nullptr; t = t->base) {
    std::string runs;
    for (const KernelUse& use : uses)
      for (const Origin& origin : use.origins(table, use.name))
        if (origin.isa == t->isa) runs += (runs.empty() ? "" : ", ") + origin.what;
    if (!runs.empty()) sets.emplace_back(t->isa, runs);
  }
  std::string text;
  for (size_t i = 0; i < sets.size(); ++i)
    text += i + 1 < sets.size() ? sets[i].first + " (" + sets[i].second + "), " : sets[i].first;
  return text;
}

}  // namespace kdnative::cpu
