// Each instruction of the emulator against a plain formula. Layouts of fragments are written out here from the tables
// of the PTX ISA, element by element, and not by the emulator's code.
#include <array>
#include <cmath>
#include <cstring>
#include <random>

#include "emulator/launch.h"
#include "emulator/testing.h"
#include "gpu.h"

using namespace gpu;
using emulator::expect;

namespace {

std::mt19937 rng(1);
uint32_t random_bits() { return static_cast<uint32_t>(rng()); }

// Runs one warp (or more) of a kernel with 4 KB of shared memory.
emulator::Counters run(const std::function<void()>& kernel, int threads = 32, emulator::Grid grid = {}) {
  emulator::Machine machine;
  grid.threads = threads;
  grid.shared_bytes = 4096;
  emulator::launch(machine, "instruction", grid, kernel);
  return machine.counters;
}

void threads() {
  std::vector<int> seen(2 * 3 * 4, 0);
  run(
      [&] {
        expect(grid_x() == 2 && grid_y() == 3 && grid_z() == 4, "the grid's size");
        seen[(block_z() * 3 + block_y()) * 2 + block_x()] += 1 + thread();
      },
      64, {2, 3, 4});
  for (const int n : seen) expect(n == 64 * 65 / 2, "every thread of every block runs once");
}

void shuffles() {
  run([] {
    const uint32_t lane = thread();
    for (uint32_t by = 0; by < 32; ++by) {
      expect(shuffle_xor(lane * 7, by) == (lane ^ by) * 7, "shfl.bfly");
      expect(shuffle_from(lane * 7, by) == by * 7, "shfl.idx");
    }
    expect(shuffle_from(lane, (lane + 5) % 32) == (lane + 5) % 32, "shfl.idx, a lane for each");
  });
}

void memory() {
  alignas(32) std::array<uint32_t, 32 * 4> from, to;
  for (uint32_t& v : from) v = random_bits();
  run([&] {
    const int t = thread();
    store_shared16(t * 16, load_global16(&from[t * 4]));
    expect(load_shared4(t * 16 + 8) == from[t * 4 + 2], "16 bytes, read as 4");
    store_shared4(t * 16 + 4, 5), store_shared4(t * 16 + 12, 7);
    const U4 v = load_shared16(t * 16);
    expect(v.x == from[t * 4] && v.y == 5 && v.z == from[t * 4 + 2] && v.w == 7, "written by parts, read as 16 bytes");
    expect(load_global(reinterpret_cast<const uint16_t*>(&from[t]) + 1) == from[t] >> 16, "2 bytes of global memory");
    store_global16(&to[t * 4], load_global16_once(&from[t * 4]));
    sync_warp();
    expect(load_written16(&to[(31 - t) * 4]).w == from[(31 - t) * 4 + 3], "what another lane wrote");
  });
  expect(from == to, "a copy of 16 bytes by each lane");

  uint32_t count = 0, ticket = 0;
  uint64_t tickets = 0;
  run(
      [&] {
        tickets |= uint64_t{1} << atomic_inc(&ticket, 100);
        expect(atomic_inc(&count, 15) < 16, "atom.inc");
      },
      32, {2});
  expect(ticket == 64 && count == 0, "counts of atomics");
  expect(tickets == ~uint64_t{0}, "every ticket once");
}

void copies(bool eager) {
  alignas(32) std::array<uint8_t, 32 * 16> from;
  for (uint8_t& v : from) v = static_cast<uint8_t>(random_bits() | 1);
  emulator::Machine machine;
  machine.options.eager = eager;
  emulator::launch(machine, "copies", {1, 1, 1, 32, 4096}, [&] {
    const int t = thread(), bytes = t % 17;
    copy_async16(t * 16, &from[t * 16], bytes);
    copy_commit();
    copy_async16(1024 + t * 16, &from[t * 16], bytes % 5);
    copy_commit();
    const auto arrived = [&](uint32_t at, int count) {
      const U4 words = load_shared16(at);
      uint8_t found[16];
      std::memcpy(found, &words, 16);
      for (int i = 0; i < 16; ++i) expect(found[i] == (i < count ? from[t * 16 + i] : 0), "a copy of some bytes");
    };
    copy_wait<1>();
    arrived(t * 16, bytes);
    copy_wait<0>();
    arrived(1024 + t * 16, bytes % 5);
  });
}

// A matrix i of rows of 16 bytes lies at 128 i; element (row, column) of it is 64 i + 8 row + column.
void matrices() {
  run([] {
    const int t = thread();
    for (int i = 0; i < 8; i += 2) store_shared4((t * 8 + i) * 2, (t * 8 + i) | (t * 8 + i + 1) << 16);
    sync_warp();
    uint32_t four[4];
    load_matrix_x4(four, t * 16);
    for (int i = 0; i < 4; ++i) {
      const uint32_t at = 64 * i + t / 4 * 8 + t % 4 * 2;
      expect(four[i] == (at | (at + 1) << 16), "ldmatrix.x4");
    }
  });
}

// [rows, columns] of random T.
template <typename T>
std::vector<T> random_matrix(int rows, int columns) {
  std::vector<T> m(rows * columns);
  for (T& v : m) v = static_cast<T>(random_bits());
  return m;
}

void products_of_int8() {
  const auto a = random_matrix<int8_t>(16, 32), b = random_matrix<int8_t>(32, 8);
  run([&] {
    const int g = thread() / 4, t = thread() % 4;
    uint32_t fa[4], fb[2];
    for (int i = 0; i < 16; ++i) {  // a_i of the table: row g or g + 8, column 4 t + i % 4 or 16 more
      const int row = i < 4 || (i >= 8 && i < 12) ? g : g + 8, column = t * 4 + i % 4 + (i >= 8 ? 16 : 0);
      reinterpret_cast<int8_t*>(fa)[i] = a[row * 32 + column];
    }
    for (int i = 0; i < 8; ++i) reinterpret_cast<int8_t*>(fb)[i] = b[(t * 4 + i % 4 + (i >= 4 ? 16 : 0)) * 8 + g];
    int32_t d[4] = {INT32_MAX, -5, 0, INT32_MIN};
    const int32_t before[4] = {INT32_MAX, -5, 0, INT32_MIN};
    mma_s8(d, fa, fb[0], fb[1]);
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? g : g + 8, column = t * 2 + i % 2;
      int64_t sum = before[i];
      for (int k = 0; k < 32; ++k) sum += a[row * 32 + k] * b[k * 8 + column];
      expect(d[i] == static_cast<int32_t>(sum), "mma s8, sums wrap");
    }
    int32_t half[4] = {5, 6, 7, 8};  // the same product, of the first 16 of k
    mma_s8_half(half, fa[0], fa[1], fb[0]);
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? g : g + 8, column = t * 2 + i % 2;
      int32_t sum = 5 + i;
      for (int k = 0; k < 16; ++k) sum += a[row * 32 + k] * b[k * 8 + column];
      expect(half[i] == sum, "mma s8 with k 16");
    }
  });
}

void products_of_2_of_4() {
  // Dense a [16, 64] with two values in each four, at places that differ; stored [16, 32] with their columns.
  std::vector<int8_t> dense(16 * 64), stored(16 * 32);
  std::vector<int> column_of(16 * 32);
  const int pairs[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
  for (int row = 0; row < 16; ++row)
    for (int four = 0; four < 16; ++four)
      for (int i = 0; i < 2; ++i) {
        const int column = pairs[(row + four * 5) % 6][i];
        const int8_t v = static_cast<int8_t>(random_bits());
        dense[row * 64 + four * 4 + column] = stored[row * 32 + four * 2 + i] = v;
        column_of[row * 32 + four * 2 + i] = column;
      }
  const auto b = random_matrix<int8_t>(64, 8);
  run([&] {
    const int g = thread() / 4, t = thread() % 4;
    uint32_t fa[4], fb[4], metadata = 0;
    for (int i = 0; i < 16; ++i) {
      const int row = i < 4 || (i >= 8 && i < 12) ? g : g + 8, column = t * 4 + i % 4 + (i >= 8 ? 16 : 0);
      reinterpret_cast<int8_t*>(fa)[i] = stored[row * 32 + column];
    }
    for (int i = 0; i < 16; ++i) reinterpret_cast<int8_t*>(fb)[i] = b[(t * 4 + i % 4 + i / 4 * 16) * 8 + g];
    for (int i = 0; i < 16; ++i)
      metadata |= static_cast<uint32_t>(column_of[(g + t % 2 * 8) * 32 + t / 2 * 16 + i]) << 2 * i;
    int32_t d[4] = {1, 2, 3, 4};
    mma_sparse_s8(d, fa, fb, metadata);
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? g : g + 8, column = t * 2 + i % 2;
      int32_t sum = i + 1;
      for (int k = 0; k < 64; ++k) sum += dense[row * 64 + k] * b[k * 8 + column];
      expect(d[i] == sum, "mma.sp s8");
    }
  });
}

// Factors are small integers and halves, so that every sum is exact.
template <typename Type>
void products_of_16_bits(Type (*convert)(float),
                         void (*multiply)(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t)) {
  std::vector<float> a(16 * 16), b(16 * 8);
  for (float& v : a) v = static_cast<float>(random_bits() % 33) / 2 - 8;
  for (float& v : b) v = static_cast<float>(random_bits() % 33) / 2 - 8;
  run([&] {
    const int g = thread() / 4, t = thread() % 4;
    Type fa[8], fb[4];
    for (int i = 0; i < 8; ++i) {
      const int row = i < 2 || (i >= 4 && i < 6) ? g : g + 8, column = t * 2 + i % 2 + (i >= 4 ? 8 : 0);
      fa[i] = convert(a[row * 16 + column]);
    }
    for (int i = 0; i < 4; ++i) fb[i] = convert(b[(t * 2 + i % 2 + (i >= 2 ? 8 : 0)) * 8 + g]);
    uint32_t wa[4], wb[2];
    std::memcpy(wa, fa, sizeof wa), std::memcpy(wb, fb, sizeof wb);
    float d[4] = {1, 2, 3, 4};
    multiply(d, wa, wb[0], wb[1]);
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? g : g + 8, column = t * 2 + i % 2;
      float sum = static_cast<float>(i + 1);
      for (int k = 0; k < 16; ++k) sum += a[row * 16 + k] * b[k * 8 + column];
      expect(d[i] == sum, "mma of 16-bit factors");
    }
  });
}

// Every value of 16 bits, and midpoints between neighbours, which go to the even one.
template <typename Type>
void rounding(const char* name, Type (*convert)(float), int mantissa, uint16_t infinity) {
  for (uint32_t bits = 0; bits < infinity; ++bits) {
    const float v = to_float(Type{static_cast<uint16_t>(bits)});
    const float next = bits + 1u == infinity
                           ? std::ldexp(1.0f, infinity == 0x7c00 ? 16 : 127) * (infinity == 0x7c00 ? 1.0f : 2.0f)
                           : to_float(Type{static_cast<uint16_t>(bits + 1)});
    expect(convert(v).bits == bits && convert(-v).bits == (bits | 0x8000), std::string(name) + ": a value is itself");
    if (std::isinf(next)) continue;
    const float middle = v + (next - v) / 2;
    expect(convert(middle).bits == bits + (bits & 1), std::string(name) + ": the middle goes to the even neighbour");
    expect(convert(std::nextafterf(middle, 0)).bits == bits, std::string(name) + ": below the middle");
    expect(convert(std::nextafterf(middle, INFINITY)).bits == bits + 1, std::string(name) + ": above the middle");
  }
  expect(convert(INFINITY).bits == infinity && convert(-INFINITY).bits == (infinity | 0x8000), "infinity");
  expect(convert(3.4e38f).bits == (mantissa == 10 ? infinity : 0x7f80), "too large");
  const uint16_t nan = convert(NAN).bits;
  expect((nan & infinity) == infinity && (nan & ~infinity & 0x7fff) != 0, "NaN");
}

void conversions() {
  rounding<Half>("fp16", to_half, 10, 0x7c00);
  rounding<Bf16>("bf16", to_bf16, 7, 0x7f80);
  expect(std::isnan(to_float(Half{0x7e01})) && std::isinf(to_float(Half{0xfc00})), "fp16 that is no number");
  expect(to_half2(1.0f, 2.0f) == 0x40003c00 && to_bf16x2(1.0f, 2.0f) == 0x40003f80, "pairs: the first is low");
  expect(bits_of(1.0f) == 0x3f800000 && float_of_bits(0x40490fdb) == 3.14159274f, "bits");
  expect(to_int(2.5f) == 2 && to_int(3.5f) == 4 && to_int(-2.5f) == -2 && to_int(3e9f) == INT32_MAX &&
             to_int(-3e9f) == INT32_MIN && to_int(NAN) == 0,
         "to_int");
  expect(pack_int8(-1, 200, 0xabcd1234) == 0x12347fff, "cvt.pack");
  expect(to_float(16777217) == 16777216.0f && to_float(INT32_MIN) == -2147483648.0f, "int to float");
}

// fp16 and bf16 arithmetic against long double, which holds every product and sum here exactly.
void pairs() {
  for (int i = 0; i < 20000; ++i) {
    const uint32_t a = random_bits(), b = random_bits(), c = i % 3 == 0 ? a ^ 0x80008001 : random_bits();
    for (int shift = 0; shift < 32; shift += 16) {
      const auto half = [shift](uint32_t v) -> double { return to_float(Half{static_cast<uint16_t>(v >> shift)}); };
      const double x = half(a), y = half(b), z = half(c);
      if (std::isnan(x + y + z) || std::isinf(x) || std::isinf(y) || std::isinf(z)) continue;
      // |x y| >= 2^-48 and sums below 2^33 need more bits than a double has only when they are far apart: skip these.
      const double exact = x * y + z;
      const long double precise = static_cast<long double>(x) * y + z;
      const auto got = [shift](uint32_t v) { return static_cast<uint16_t>(v >> shift); };
      if (static_cast<long double>(exact) == precise)
        expect(got(fma_half2(a, b, c)) == emulator::round_to<Half>(exact).bits, "fma.f16x2");
      expect(got(add_half2(a, b)) == to_half(static_cast<float>(x + y)).bits, "add.f16x2");
    }
  }
  // 1 + 2^-11 is a midpoint of fp16: what is added far below it decides.
  expect(fma_half2(0x10010001, 0x10010001, 0x3c003c00) == 0x3c003c00, "a product far below the last place");
  expect((fma_half2(0x00013c00, 0x00011000, 0x10003c00) & 0xffff) == 0x3c00, "a tie goes to even");
  // bf16: 1 * 1 + 2^-8 is a tie, 1.0078125 * 1.0078125 - 1 is exact in 8 bits and a half
  expect((fma_bf16x2(0x3f80, 0x3f80, 0x3b80) & 0xffff) == 0x3f80, "fma.bf16x2: a tie goes to even");
  expect((fma_bf16x2(0x3f81, 0x3f80, 0x3b80) & 0xffff) == 0x3f82, "fma.bf16x2: a tie goes to even, upwards");
  expect((fma_bf16x2(0x4300, 0x3f80, 0xc308) & 0xffff) == 0xc100, "fma.bf16x2: 128 - 136 = -8");
  // 7 * 37 lies between 258 and 260: what is 2^100 times smaller decides.
  expect((fma_bf16x2(0x40e0, 0x4214, 0x8d80) & 0xffff) == 0x4381, "fma.bf16x2: rounded once");
}

void arithmetic() {
  expect(lop3<0xea>(0xf0f0f0f0, 0xcccccccc, 0xaaaaaaaa) == ((0xf0f0f0f0 & 0xcccccccc) | 0xaaaaaaaa), "lop3: a & b | c");
  expect(lop3<0x96>(1, 3, 5) == (1 ^ 3 ^ 5) && lop3<0x6a>(6, 3, 5) == ((6 & 3) ^ 5), "lop3");
  expect(lop3<0x30>(6, 3, 5) == (6 & ~3) && lop3<0x22>(6, 3, 5) == (5 & ~3), "lop3: which operand is which");
  expect(permute(0x33221100, 0x77665544, 0x7531) == 0x77553311 && permute(0x33221180, 0, 0x8888) == 0xffffffff, "prmt");
  volatile float third = 1.0f / 3;
  expect(fma_rn(third, 3.0f, -1.0f) != 0 && add_rn(mul_rn(third, 3.0f), -1.0f) == 0, "fused, and not");
  expect(div_rn(1.0f, 3.0f) == third && sub_rn(1.0f, third) == 1.0f - third && sqrt_rn(2.0f) == 1.41421354f, "rounded");
}

// Costs that are known by hand.
void costs() {
  alignas(32) static const uint32_t data[32 * 32] = {};
  const emulator::Counters c = run([&] {
    const int t = thread();
    store_shared4(t * 4, 0);              // a word of every bank: 1 cycle
    store_shared16(2048 + t * 16, U4{});  // 4 cycles of 8 lanes
    sync_warp();
    load_shared4(t / 2 * 4);                           // a word for two lanes: 1 cycle
    store_shared4(1024 + t * 8, 0);                    // 2 words of a bank: 2 cycles
    store_shared4(2048 + t * 64, 0);                   // 16 lanes to a bank: 16 cycles
    copy_async16(512 + t * 16, data, t % 2 ? 8 : 16);  // one sector, of which half is wanted
    copy_commit();
    copy_wait<0>();
    load_global(&data[t]);                                    // 4 sectors
    load_global16(&data[t / 4 * 4]);                          // 8 lots of 16 bytes: 4 sectors
    load_global(reinterpret_cast<const U2*>(&data[t * 32]));  // 32 sectors, 8 would do
  });
  const auto is = [](const emulator::Cost& x, uint64_t requests, uint64_t cost, uint64_t ideal) {
    return x.requests == requests && x.cost == cost && x.ideal == ideal;
  };
  expect(is(c.shared.at("st.shared.v4.b32"), 1, 4, 4), "wide stores");
  expect(is(c.shared.at("ld.shared.b32"), 1, 1, 1), "loads of a word");
  expect(is(c.shared.at("st.shared.b32"), 3, 1 + 2 + 16, 3), "stores of a word, two with bank conflicts");
  expect(is(c.global.at("cp.async.cg 16 from global"), 1, 1, 1), "copies of one place");
  expect(is(c.global.at("ld.global.nc.b32"), 1, 4, 4) && is(c.global.at("ld.global.nc.v4.b32"), 1, 4, 4), "sectors");
  expect(is(c.global.at("ld.global.nc.v2.b32"), 1, 32, 8), "sectors of which a quarter is wanted");
}

}  // namespace

int main() {
  return emulator::finish([] {
    threads(), shuffles(), memory(), copies(false), copies(true), matrices(), products_of_int8(), products_of_2_of_4();
    products_of_16_bits<Half>(to_half, [](auto& d, const auto& a, auto b0, auto b1) { mma_f16(d, a, b0, b1); });
    products_of_16_bits<Bf16>(to_bf16, [](auto& d, const auto& a, auto b0, auto b1) { mma_bf16(d, a, b0, b1); });
    conversions(), pairs(), arithmetic(), costs();
  });
}
