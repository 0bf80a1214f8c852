// What the accesses of warps cost: cycles of banks in shared memory, sectors of 32 bytes in global memory, beside the
// least that as many bytes could cost.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <unordered_set>

namespace gpu::emulator {

struct Request {  // of a warp: what each lane touches; 0 bytes: nothing
  uint64_t at[32] = {};
  uint16_t size[32] = {};
};

struct Cost {
  uint64_t requests = 0, cost = 0, ideal = 0;
  uint64_t once = 0;  // of global memory: sectors, if each block touched each of its sectors once
};

struct Launch {
  uint64_t blocks = 0;
  int threads = 0;
  size_t shared_bytes = 0;
};

struct Counters {
  std::map<std::string, uint64_t> instructions;                 // of whole warps, accesses left out
  std::map<std::string, Cost> shared;                           // cycles
  std::map<std::string, Cost> global;                           // sectors
  std::map<std::string, Launch> launches;                       // of kernels
  std::map<std::string, std::unordered_set<uint64_t>> touched;  // sectors, by the block that runs

  // Cycles: lanes are served together in groups of 32, with 16 bytes each in groups of 8. A bank gives one word of 4
  // bytes a cycle, to everyone who wants it. No kernel takes 8 bytes of shared memory at once.
  void add_shared(const char* name, const Request& r) {
    const int size = *std::max_element(r.size, r.size + 32);
    if (size == 0) return;
    Cost& c = shared[name];
    ++c.requests;
    const int phase = size == 16 ? 8 : 32;
    for (int first = 0; first < 32; first += phase) {
      uint64_t words[32];
      int n = 0;
      for (int l = first; l < first + phase; ++l)
        for (int byte = 0; byte < r.size[l]; byte += 4) words[n++] = (r.at[l] + byte) / 4;
      if (n == 0) continue;
      std::sort(words, words + n);
      n = static_cast<int>(std::unique(words, words + n) - words);
      int of_bank[32] = {};
      for (int i = 0; i < n; ++i) ++of_bank[words[i] % 32];
      c.cost += *std::max_element(of_bank, of_bank + 32);
      c.ideal += 1;
    }
  }

  void add_global(const char* name, const Request& r) {
    int order[32], n = 0;
    for (int l = 0; l < 32; ++l)
      if (r.size[l] > 0) order[n++] = l;
    if (n == 0) return;
    std::sort(order, order + n, [&r](int a, int b) { return r.at[a] < r.at[b]; });
    uint64_t bytes = 0, sectors = 0, end = 0, next_sector = 0;  // all before end, or next_sector, are counted
    for (int i = 0; i < n; ++i) {
      const uint64_t from = r.at[order[i]], to = from + r.size[order[i]];
      if (to > end) bytes += to - std::max(from, end);
      end = std::max(end, to);
      const uint64_t first = std::max(from / 32, next_sector), past = (to + 31) / 32;
      if (past > first) sectors += past - first;
      for (uint64_t s = first; s < past; ++s) touched[name].insert(s);
      next_sector = std::max(next_sector, past);
    }
    Cost& c = global[name];
    ++c.requests;
    c.cost += sectors;
    c.ideal += (bytes + 31) / 32;
  }

  void end_block() {
    for (auto& [name, sectors] : touched) global[name].once += sectors.size();
    touched.clear();
  }

  void add(const Counters& other) {
    for (const auto& [name, l] : other.launches)
      launches[name] = {launches[name].blocks + l.blocks, l.threads, l.shared_bytes};
    for (const auto& [name, n] : other.instructions) instructions[name] += n;
    for (const auto& [name, c] : other.shared) add_cost(shared[name], c);
    for (const auto& [name, c] : other.global) add_cost(global[name], c);
  }

  // {"instructions": {NAME: n}, "shared": {NAME: {"requests": n, "cycles": n, "ideal": n}}, "global": {NAME:
  // {"requests": n, "sectors": n, "ideal": n, "once": n}}, "launches": {KERNEL: {"blocks": n, "threads": n, "shared":
  // n}}}
  std::string json() const {
    std::ostringstream s;
    const char* comma = "";
    s << "{\"instructions\": {";
    for (const auto& [name, n] : instructions) s << comma << '"' << name << "\": " << n, comma = ", ";
    s << "}, \"shared\": ";
    write(s, shared, "cycles");
    s << ", \"global\": ";
    write(s, global, "sectors");
    s << ", \"launches\": {";
    comma = "";
    for (const auto& [name, l] : launches) {
      s << comma << '"' << name << "\": {\"blocks\": " << l.blocks << ", \"threads\": " << l.threads;
      s << ", \"shared\": " << l.shared_bytes << "}";
      comma = ", ";
    }
    s << "}}";
    return s.str();
  }

 private:
  static void add_cost(Cost& to, const Cost& c) {
    to.requests += c.requests;
    to.cost += c.cost;
    to.ideal += c.ideal;
    to.once += c.once;
  }
  static void write(std::ostringstream& s, const std::map<std::string, Cost>& costs, const char* unit) {
    const char* comma = "";
    s << "{";
    for (const auto& [name, c] : costs) {
      s << comma << '"' << name << "\": {\"requests\": " << c.requests << ", \"" << unit << "\": " << c.cost
        << ", \"ideal\": " << c.ideal;
      if (c.once != 0) s << ", \"once\": " << c.once;
      s << "}";
      comma = ", ";
    }
    s << "}";
  }
};

}  // namespace gpu::emulator
