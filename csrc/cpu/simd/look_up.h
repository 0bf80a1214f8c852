// Tables of 256 bytes by an instruction that knows tables of 16, over Bytes. Include it after one bytes_*.h of x86.
#pragma once

namespace kdnative::cpu {
namespace {

// Sixteen picks, each of which is 0 for the codes of other parts: with the number of the part taken off, codes of this
// part are below 16, and adding 0x70 makes all others 128 or more.
inline Bytes look_up(Bytes x, const uint8_t* table) {
  Bytes found = Bytes::zero();
  for (int part = 0; part < 16; ++part) {
    const Bytes index = add_saturated(x ^ Bytes::set1(16 * part), Bytes::set1(0x70));
    found = found | pick(Bytes::load_part(table + 16 * part), index);
  }
  return found;
}

inline void look_up_parts(const uint8_t* x, int64_t n, const uint8_t* table, uint8_t* out) {
  int64_t i = 0;
  for (; i + Bytes::width <= n; i += Bytes::width) look_up(Bytes::load(x + i), table).store(out + i);
  for (; i < n; ++i) out[i] = table[x[i]];
}

}  // namespace
}  // namespace kdnative::cpu
