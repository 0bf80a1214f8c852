// The 2:4 kernels on the emulator: the bits of a plain sum over the dense weight.
//
// Usage: sparse24_test [quick | grid | counters | offsets N K BIAS]
#include "sparse24.cu"

#include "int8_products.h"
#include "sparse24.h"

namespace gpu::emulator {
namespace {

EMULATED_KERNEL(sparse24_large, Sparse24Large::kThreads)
EMULATED_KERNEL(sparse24_medium, Sparse24Medium::kThreads)
EMULATED_KERNEL(sparse24_small, Sparse24Small::kThreads)

// Of four weights two at most stay: any two, often fewer.
void prune(Problem& p) {
  std::minstd_rand random(p.shape.k);
  for (int r = 0; r < p.shape.n; ++r)
    for (int c = 0; c < p.shape.k; c += 4) {
      const int first = random() % 4, second = random() % 4;
      for (int i = c; i < std::min(c + 4, p.shape.k); ++i)
        if (i - c != first && i - c != second) p.w[int64_t{r} * p.shape.k + i] = 0;
    }
}

// The tiles of sparse24_layout.h, by the definition of mma.sp's operands.
std::vector<uint8_t> pack(const Problem& p) {
  const int n = p.shape.n, k = p.shape.k, row_tiles = (k + 255) / 256 * 4, tiles = (n + 15) / 16 * row_tiles;
  std::vector<uint8_t> packed(int64_t{tiles} * 640);
  for (int tile = 0; tile < tiles; ++tile) {
    uint8_t* const at = packed.data() + int64_t{tile} * 640;
    for (int row = 0; row < 16; ++row) {
      const int output = tile / row_tiles * 16 + row % 8 * 2 + row / 8;
      int8_t codes[32];
      uint32_t places[2] = {};
      for (int four = 0; four < 16; ++four) {
        int kept[2], count = 0;
        const auto code = [&](int i) {
          const int input = tile % row_tiles * 64 + four * 4 + i;
          return output < n && input < k ? p.w[int64_t{output} * k + input] : int8_t{0};
        };
        for (int i = 0; i < 4; ++i)
          if (code(i) != 0) kept[count++] = i;
        if (count == 0) kept[0] = 1, kept[1] = 2;
        if (count == 1) kept[1] = 3, kept[0] = kept[0] == 3 ? 0 : kept[0];
        for (int i = 0; i < 2; ++i) {
          codes[four * 2 + i] = code(kept[i]);
          places[four / 8] |= static_cast<uint32_t>(kept[i]) << (four % 8 * 4 + i * 2);
        }
      }
      for (int t = 0; t < 4; ++t)
        for (int half = 0; half < 2; ++half)
          std::memcpy(at + (row % 8 * 4 + t) * 16 + (half * 2 + row / 8) * 4, codes + half * 16 + t * 4, 4);
      for (int half = 0; half < 2; ++half)
        std::memcpy(at + 512 + (row % 8 * 4 + half * 2 + row / 8) * 4, &places[half], 4);
    }
  }
  return packed;
}

template <typename T>
void run(const Problem& p, With with, EmulatedLauncher& launcher, const Sparse24TileShape& tile) {
  const auto start = [&](DeviceMemory& memory, const Int8Product& product) {
    sparse24(launcher, {product, memory.input("weight", pack(p))}, tile);
  };
  const std::string wrong = difference<T>(tile.name, p, with, launcher, start);
  expect(wrong.empty(), wrong);
}

void test(const std::vector<Shape>& shapes, const std::vector<Options>& modes) {
  for (const Shape& shape : shapes) {
    Problem p(shape);
    prune(p);
    if (shape.k > 1000) p.make_extreme();
    for (const Options& mode : modes)
      for (const Sparse24TileShape& tile : kSparse24Tiles) {
        EmulatedLauncher launcher;
        launcher.machine.options = mode;
        run<float>(p, With::everything, launcher, tile);
        if (mode.seed == 0 && !mode.eager) run<Half>(p, With::nothing, launcher, tile);
        if (mode.seed == 0 && mode.eager) run<Bf16>(p, With::everything, launcher, tile);
      }
  }
}

void refuse() {
  alignas(16) static const uint8_t bytes[64] = {};
  const auto* x = reinterpret_cast<const int8_t*>(bytes);
  const auto* floats = reinterpret_cast<const float*>(bytes);
  EmulatedLauncher launcher;
  const Sparse24 good{{x, floats, floats, nullptr, nullptr, nullptr, DType::f32, Activation::none, 0, 8, 128}, bytes};
  sparse24(launcher, good);
  expect(launcher.launched.empty(), "no rows launch nothing");
  const auto refused = [&](const char* words, auto change) {
    Sparse24 bad = good;
    change(bad);
    expect_refusal(words, [&] { sparse24(launcher, bad); });
  };
  refused("x [3, 192], a 2:4 weight of 8 outputs: rows of x must be padded", [](auto& a) { a.m = 3, a.k_pad = 192; });
  refused("must be padded to a multiple of 128", [](auto& a) { a.k_pad = 0; });
  refused("of at most 133144 columns", [](auto& a) { a.k_pad = 133248 + 128; });
  refused("must lie on 16 bytes", [](auto& a) { a.weight += 8; });
  refused("must lie on 16 bytes", [](auto& a) { a.bias = a.scale_w + 2; });
  refused("give fewer rows at a time", [](auto& a) { a.m = kMostRows + 1; });
  refused("too large", [](auto& a) { a.m = 1, a.n = int64_t{1} << 28; });
}

// Prints where the parts of a packed weight lie.
void offsets(char** argv) {
  const Sparse24Offsets at(std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]) != 0);
  std::printf("{\"scale\": %lld, \"bias\": %lld, \"bytes\": %lld}\n", static_cast<long long>(at.scale),
              static_cast<long long>(at.bias), static_cast<long long>(at.bytes));
}

void choose() {
  const auto chosen = [](int64_t m, int64_t n, int64_t k) {
    return std::string(choose_sparse24(m, n, k, 108, 80).name);
  };
  expect(chosen(1, 4096, 4096) == "sparse24_small", "one row");
  expect(chosen(4096, 4096, 4096) == "sparse24_large", "many rows");
  expect(chosen(128, 4096, 4096) == "sparse24_medium", "some rows");
}

void count() {
  for (const Sparse24TileShape& tile : kSparse24Tiles) {
    Problem p({tile.rows, tile.outputs, 1024});
    prune(p);
    EmulatedLauncher launcher;
    run<float>(p, With::everything, launcher, tile);
    run<Half>(p, With::everything, launcher, tile);
    print_counters(tile.name, p.shape.text(), launcher.machine.counters);
  }
}

}  // namespace
}  // namespace gpu::emulator

int main(int argc, char** argv) {
  using namespace gpu::emulator;
  const std::string what = argc > 1 ? argv[1] : "";
  return finish([&] {
    if (what == "quick") return test({{3, 18, 300}}, {{.eager = false, .seed = 3}});
    if (what == "counters") return count();
    if (what == "offsets") return offsets(argv);
    refuse(), choose();
    std::vector<Shape> shapes = {{1, 1, 1}, {17, 33, 65}, {5, 144, 257}, {130, 37, 129}, {2, 3, 4096}};
    if (what == "grid") shapes.insert(shapes.end(), {{129, 257, 700}, {64, 64, 2048}, {33, 96, 31}, {257, 16, 512}});
    test(shapes, every_mode());
  });
}
