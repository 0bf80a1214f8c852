// The block-sparse kernels on the emulator: the bits of a plain sum over the dense weight.
//
// Usage: blocks_test [quick | grid | damaged | counters | offsets N SIDE BIAS BYTES]
#include "blocks.cu"

#include "blocks.h"
#include "int8_products.h"

namespace gpu::emulator {
namespace {

EMULATED_KERNEL(blocks16_many, Blocks16Many::kThreads)
EMULATED_KERNEL(blocks32_many, Blocks32Many::kThreads)
EMULATED_KERNEL(blocks64_many, Blocks64Many::kThreads)
EMULATED_KERNEL(blocks16_few, Blocks16Few::kThreads)
EMULATED_KERNEL(blocks32_few, Blocks32Few::kThreads)
EMULATED_KERNEL(blocks64_few, Blocks64Few::kThreads)

std::vector<BlocksTileShape> tiles_of(int side) {
  std::vector<BlocksTileShape> found;
  for (const BlocksTileShape& tile : kBlocksTiles)
    if (tile.side == side) found.push_back(tile);
  return found;
}

// Leaves out so many of 10 blocks; the first row of blocks has none at all.
void prune(Problem& p, int side, unsigned tenths) {
  const int n = p.shape.n, k = p.shape.k;
  std::minstd_rand random(n + k + side);
  for (int r = 0; r < n; r += side)
    for (int c = 0; c < k; c += side)
      if (r == 0 && n > side ? tenths > 0 : random() % 10 < tenths)
        for (int i = r; i < std::min(r + side, n); ++i)
          for (int j = c; j < std::min(c + side, k); ++j) p.w[int64_t{i} * k + j] = 0;
}

struct Packed {
  std::vector<int8_t> codes;
  std::vector<int32_t> columns, start;
};

// The parts of blocks_layout.h, by the definition of mma's operands.
Packed pack(const Problem& p, int side) {
  const int n = p.shape.n, k = p.shape.k, slots = 64 / side;
  Packed packed;
  packed.start.push_back(0);
  const auto code = [&](int r, int c) { return r < n && c < k ? p.w[int64_t{r} * k + c] : int8_t{0}; };
  for (int r = 0; r < n; r += side) {
    std::vector<int> kept;
    for (int c = 0; c < k; c += side) {
      bool any = false;
      for (int i = 0; i < side * side; ++i) any |= code(r + i / side, c + i % side) != 0;
      if (any) kept.push_back(c / side);
    }
    for (size_t first = 0; first < kept.size(); first += slots) {
      for (int half = 0; half < 2; ++half)
        for (int tile = 0; tile < side / 16; ++tile)
          for (int lane = 0; lane < 32; ++lane)
            for (int byte = 0; byte < 16; ++byte) {
              const int output = tile * 16 + lane / 4 * 2 + byte / 4 % 2;
              const int input = half * 32 + byte / 8 * 16 + lane % 4 * 4 + byte % 4;
              const size_t slot = first + input / side;
              packed.codes.push_back(slot < kept.size() ? code(r + output, kept[slot] * side + input % side) : 0);
            }
      for (int slot = 0; slot < slots; ++slot)
        packed.columns.push_back(first + slot < kept.size() ? kept[first + slot] : 0);
    }
    packed.start.push_back(static_cast<int32_t>(packed.columns.size() / slots));
  }
  return packed;
}

template <typename T>
std::string run(const Problem& p, const Packed& packed, int side, With with, EmulatedLauncher& launcher,
                const BlocksTileShape& tile) {
  const auto start = [&](DeviceMemory& memory, const Int8Product& product) {
    const auto* codes = reinterpret_cast<const uint8_t*>(memory.input("codes", packed.codes));
    const int64_t units = static_cast<int64_t>(packed.codes.size()) / side / 64;
    const Blocks arguments{
        product, side, units, codes, memory.input("columns", packed.columns), memory.input("start", packed.start)};
    blocks(launcher, arguments, tile);
  };
  return difference<T>(tile.name, p, with, launcher, start);
}

void test(const std::vector<Shape>& shapes, const std::vector<Options>& modes) {
  for (const Shape& shape : shapes)
    for (int side : {16, 32, 64}) {
      Problem p(shape);
      if (shape.k > 1000) p.make_extreme();
      prune(p, side, shape.n % 2 == 0 ? 4 : 8);
      const Packed packed = pack(p, side);
      for (const Options& mode : modes)
        for (const BlocksTileShape& tile : tiles_of(side)) {
          EmulatedLauncher launcher;
          launcher.machine.options = mode;
          std::string wrong = run<float>(p, packed, side, With::everything, launcher, tile);
          if (mode.seed == 0 && !mode.eager) wrong += run<Half>(p, packed, side, With::nothing, launcher, tile);
          if (mode.seed == 0 && mode.eager) wrong += run<Bf16>(p, packed, side, With::everything, launcher, tile);
          expect(wrong.empty(), wrong);
        }
    }
}

// Starts and columns that can't be: sums are wrong, but nothing outside of the buffers is touched, which the emulator
// would report.
void damage() {
  for (int side : {16, 32, 64})
    for (int32_t bad : {-1, 7, 1 << 30, INT32_MIN}) {
      Problem p({20, 100, 200});
      const Packed good = pack(p, side);
      for (const BlocksTileShape& tile : tiles_of(side))
        for (int part = 0; part < 3; ++part) {
          Packed packed = good;
          (part == 0 ? packed.columns[1] : part == 1 ? packed.start[0] : packed.start.back()) = bad;
          EmulatedLauncher launcher;
          run<float>(p, packed, side, With::nothing, launcher, tile);
        }
    }
}

void refuse() {
  alignas(16) static const uint8_t bytes[64] = {};
  const auto* floats = reinterpret_cast<const float*>(bytes);
  const auto* ints = reinterpret_cast<const int32_t*>(bytes);
  EmulatedLauncher launcher;
  Blocks good{};
  good.x = reinterpret_cast<const int8_t*>(bytes), good.side = 32, good.codes = bytes, good.columns = good.start = ints;
  good.scale_w = floats, good.n = 8, good.k_pad = 128;
  blocks(launcher, good);
  expect(launcher.launched.empty(), "no rows launch nothing");
  const auto refused = [&](const char* words, auto change) {
    Blocks bad = good;
    change(bad);
    expect_refusal(words, [&] { blocks(launcher, bad); });
  };
  refused("blocks have a side of 16, 32 or 64", [](auto& a) { a.side = 48; });
  refused("x [3, 192], a weight of 8 outputs in blocks of 32: rows of x must be padded",
          [](auto& a) { a.m = 3, a.k_pad = 192; });
  refused("-1 units of blocks can't be", [](auto& a) { a.units = -1; });
  refused("of at most 133144 columns", [](auto& a) { a.k_pad = 133248 + 128; });
  refused("must lie on 16 bytes", [](auto& a) { a.codes += 8; });
  refused("give fewer rows at a time", [](auto& a) { a.m = kMostRows + 1; });
  refused("too large", [](auto& a) { a.m = 1, a.n = int64_t{1} << 28; });
  expect_refusal("blocks64_many is not for them", [&] { blocks(launcher, good, tiles_of(64)[0]); });
}

void choose() {
  Blocks a{};
  a.n = a.k_pad = 4096;
  for (int side : {16, 32, 64}) {
    a.side = side, a.units = 4096 / side * 20;  // 20 of 64 in each row of blocks
    for (int64_t m : {1, 16, 4096}) {
      a.m = m;
      const std::string wanted = "blocks" + std::to_string(side) + (m == 4096 ? "_many" : "_few");
      const std::string name = choose_blocks(a, 108, 80).name;
      expect(name == wanted, name + " is chosen for " + std::to_string(m) + " rows");
    }
  }
}

// Prints where the parts of a packed weight lie.
void offsets(char** argv) {
  const BlocksOffsets at(std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]) != 0, std::atoll(argv[5]));
  std::printf("{\"units\": %lld, \"columns\": %lld, \"start\": %lld, \"scale\": %lld, \"bias\": %lld}\n",
              static_cast<long long>(at.units), static_cast<long long>(at.columns), static_cast<long long>(at.start),
              static_cast<long long>(at.scale), static_cast<long long>(at.bias));
}

void count() {
  for (int side : {16, 32, 64})
    for (const BlocksTileShape& tile : tiles_of(side)) {
      Problem p({tile.rows, 128, 1024});
      prune(p, side, 5);
      const Packed packed = pack(p, side);
      EmulatedLauncher launcher;
      run<float>(p, packed, side, With::everything, launcher, tile);
      run<Half>(p, packed, side, With::everything, launcher, tile);
      print_counters(tile.name, p.shape.text(), launcher.machine.counters);
    }
}

}  // namespace
}  // namespace gpu::emulator

int main(int argc, char** argv) {
  using namespace gpu::emulator;
  const std::string what = argc > 1 ? argv[1] : "";
  return finish([&] {
    if (what == "quick") return test({{19, 70, 300}}, {{.eager = false, .seed = 3}});
    if (what == "damaged") return damage();
    if (what == "counters") return count();
    if (what == "offsets") return offsets(argv);
    refuse(), choose();
    std::vector<Shape> shapes = {{1, 1, 1}, {17, 33, 65}, {5, 130, 257}, {130, 37, 129}, {3, 4, 900}, {2, 3, 4096}};
    if (what == "grid") shapes.insert(shapes.end(), {{129, 257, 700}, {64, 64, 2048}, {33, 96, 31}, {257, 16, 512}});
    test(shapes, every_mode());
  });
}
