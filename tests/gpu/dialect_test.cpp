// Runs instructions.cu on the emulator: `dialect_test FILE` reads 1,024 words of input from a file and prints the words
// that the kernel writes, then those of its counters.
#include <cstdio>
#include <fstream>

#include "emulator/testing.h"
#include "instructions.cu"

int main(int, char** argv) {
  namespace emulator = gpu::emulator;
  return emulator::finish([&] {
    std::vector<uint32_t> words(1024);
    std::ifstream(argv[1], std::ios::binary).read(reinterpret_cast<char*>(words.data()), 4096);
    emulator::DeviceMemory memory;
    const uint32_t* in = memory.input("in", words);
    constexpr int kRows = 256;
    uint32_t* out = memory.in_out("out", std::vector<uint32_t>(kRows * 32));
    uint32_t* scratch = memory.output<uint32_t>("scratch", 256);
    uint32_t* counters = memory.in_out("counters", std::vector<uint32_t>(8));
    emulator::Machine machine;
    machine.memory = &memory;
    emulator::launch(machine, "every_instruction", {1, 1, 1, 32, 1024},
                     [&] { every_instruction(in, out, scratch, counters); });
    for (int i = 0; i < kRows * 32; ++i) std::printf("%u\n", out[i]);
    for (int i = 0; i < 8; ++i) std::printf("%u\n", counters[i]);
  });
}
