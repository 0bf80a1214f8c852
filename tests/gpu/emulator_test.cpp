// Each check of the emulator has kernels here that it must report, and ones beside them that it must let pass:
// `emulator_test NAME` runs one, `emulator_test` prints the names. tests/gpu/test_emulator.py knows the reports.
#include "emulator/emulated_launcher.h"
#include "emulator/testing.h"
#include "gpu.h"

using namespace gpu;

namespace {

int lane() { return thread() & 31; }
int warp() { return thread() >> 5; }

struct Case {
  const char* name;
  void (*kernel)(const float* in, float* out, uint32_t* counter);  // in and out have 64 elements, counter 2
  int threads = 64, blocks = 1;
  emulator::Options options = {};
};

const Case kCases[] = {
    {"a clean kernel",
     [](const float* in, float* out, uint32_t*) {
       store_shared4(thread() * 4, bits_of(load_global(in + thread())));
       sync_threads();
       store_global(out + thread(), float_of_bits(load_shared4((63 - thread()) * 4)));
     }},

    // Races in shared memory
    {"a read of another warp's bytes without a barrier",
     [](const float*, float* out, uint32_t*) {
       store_shared4(thread() * 4, 1);
       store_global(out + thread(), float_of_bits(load_shared4((thread() ^ 32) * 4)));
     }},
    {"a read of another lane's bytes without sync_warp",
     [](const float*, float* out, uint32_t*) {
       store_shared4(thread() * 4, 1);
       shuffle_xor(1, 1);  // brings the lanes together, but orders no memory
       store_global(out + thread(), float_of_bits(load_shared4((thread() ^ 1) * 4)));
     }},
    {"a read of another lane's bytes after sync_warp",
     [](const float*, float* out, uint32_t*) {
       store_shared4(thread() * 4, 1);
       sync_warp();
       store_global(out + thread(), float_of_bits(load_shared4((thread() ^ 1) * 4)));
     }},
    {"a read of another warp's bytes after sync_warp",
     [](const float*, float* out, uint32_t*) {
       store_shared4(thread() * 4, 1);
       sync_warp();
       store_global(out + thread(), float_of_bits(load_shared4((thread() ^ 32) * 4)));
     }},
    {"a write over another warp's bytes after sync_warp",
     [](const float*, float*, uint32_t*) {
       if (warp() == 1) sync_warp();
       store_shared4(lane() * 4, warp());
     }},
    {"a read of another warp's bytes that were written before",
     [](const float*, float* out, uint32_t*) {
       store_shared4(thread() * 4, 1);
       sync_threads();
       store_shared4(thread() * 4, 2);
       store_global(out + thread(), float_of_bits(load_shared4((thread() ^ 32) * 4)));
     }},
    {"a write over what another warp reads",
     [](const float*, float* out, uint32_t*) {
       store_shared4(thread() * 4, 1);
       sync_threads();
       store_global(out + thread(), float_of_bits(load_shared4((thread() ^ 32) * 4)));
       store_shared4(thread() * 4, 2);
     }},
    {"a write over what several warps read",
     [](const float*, float*, uint32_t*) {
       store_shared4(thread() * 4, 1);
       sync_threads();
       load_shared4(252);
       if (thread() == 62) store_shared4(252, 2);  // the last to run: 63 was the last at the barrier
     }},
    {"a write after sync_warp over what a lane read before it",
     [](const float*, float*, uint32_t*) {
       store_shared4(thread() * 4, 1);
       sync_warp();
       if (lane() == 5) load_shared4(warp() * 128 + 8);
       sync_warp();
       if (lane() == 6) load_shared4(warp() * 128 + 8);
       if (lane() == 6) store_shared4(warp() * 128 + 8, 2);
     }},
    {"a write over what two warps read",
     [](const float*, float*, uint32_t*) {
       store_shared4(thread() * 4, 1);
       sync_threads();
       if (lane() < 2) load_shared4(8);  // warp 1 last: its barrier was passed first, but 32 to 62 come after 0 to 31
       sync_warp();
       if (thread() == 33) store_shared4(8, 2);
     }},
    {"two writes of one shared address", [](const float*, float*, uint32_t*) { store_shared4(0, thread()); }},

    // Bytes
    {"a read of shared bytes nobody wrote",
     [](const float*, float* out, uint32_t*) {
       store_global(out + thread(), float_of_bits(load_shared4(thread() * 4)));
     }},
    {"an access outside shared memory", [](const float*, float*, uint32_t*) { store_shared4(1024 + thread() * 4, 0); }},
    {"a misaligned shared address",
     [](const float*, float*, uint32_t*) { store_shared16(thread() * 16 % 512 + 8, U4{1, 2, 3, 4}); }},
    {"a misaligned global address",
     [](const float* in, float* out, uint32_t*) {
       store_global(out + thread(), float_of_bits(load_global16(in + 1).x));
     }},
    {"a read past a buffer",
     [](const float* in, float* out, uint32_t*) { store_global(out + thread(), load_global(in + thread() + 1)); }},
    {"a write past a buffer", [](const float*, float* out, uint32_t*) { store_global(out + thread() + 1, 1.0f); }},
    {"a write before a buffer", [](const float*, float* out, uint32_t*) { store_global(out + thread() - 1, 1.0f); }},
    {"a write of what is only read",
     [](const float* in, float*, uint32_t*) { store_global(const_cast<float*>(in) + thread(), 1.0f); }},
    {"a read of global bytes nobody wrote",
     [](const float*, float* out, uint32_t*) { store_global(out + thread(), load_written(out + (thread() ^ 1))); }},

    // Asynchronous copies
    {"a copy without a wait, lazy",
     [](const float* in, float* out, uint32_t*) {
       copy_async16(thread() * 16, in + thread() / 4 * 4);
       copy_commit();
       store_global(out + thread(), float_of_bits(load_shared4(thread() * 16)));
     }},
    {"a copy without a wait, eager",
     [](const float* in, float* out, uint32_t*) {
       copy_async16(thread() * 16, in + thread() / 4 * 4);
       copy_commit();
       store_global(out + thread(), float_of_bits(load_shared4(thread() * 16)));
     },
     64,
     1,
     {.eager = true}},
    {"a wait one too weak",
     [](const float* in, float* out, uint32_t*) {
       copy_async16(thread() * 16, in + thread() / 4 * 4);
       copy_commit();
       copy_wait<1>();
       store_global(out + thread(), float_of_bits(load_shared4(thread() * 16)));
       copy_wait<0>();
     }},
    {"a wait without a barrier",
     [](const float* in, float* out, uint32_t*) {
       copy_async16(thread() * 16, in + thread() / 4 * 4);
       copy_commit();
       copy_wait<0>();
       store_global(out + thread(), float_of_bits(load_shared4((thread() ^ 32) * 16)));
     }},
    {"a wait without a barrier, of bytes written before",
     [](const float* in, float* out, uint32_t*) {
       store_shared4(thread() * 16, 1);
       sync_threads();
       copy_async16(thread() * 16, in + thread() / 4 * 4);
       copy_commit();
       copy_wait<0>();
       store_global(out + thread(), float_of_bits(load_shared4((thread() ^ 32) * 16)));
     }},
    {"a wait and a barrier",
     [](const float* in, float* out, uint32_t*) {
       copy_async16(thread() * 16, in + thread() / 4 * 4);
       copy_commit();
       copy_wait<0>();
       sync_threads();
       store_global(out + thread(), float_of_bits(load_shared4((thread() ^ 32) * 16)));
     }},
    {"a copy over what another warp reads",
     [](const float* in, float* out, uint32_t*) {
       store_shared4(thread() * 16, 1);
       sync_threads();
       store_global(out + thread(), float_of_bits(load_shared4((thread() ^ 32) * 16)));
       copy_async16(thread() * 16, in + thread() / 4 * 4);
       copy_commit();
       copy_wait<0>();
     }},
    {"an end with copies under way",
     [](const float* in, float*, uint32_t*) {
       copy_async16(thread() * 16, in + thread() / 4 * 4);
       copy_commit();
     }},
    {"a copy of more bytes than its size",
     [](const float* in, float*, uint32_t*) { copy_async16(thread() * 16, in + thread() / 4 * 4, 17); }},
    {"a copy past a buffer",
     [](const float* in, float*, uint32_t*) {
       copy_async16(thread() * 16, in + thread() / 16 * 16 + 4 * (thread() / 48), 16);
       copy_async16(thread() * 16 + 1024, in + 64, 16);
     }},
    {"a copy of nothing from anywhere",
     [](const float* in, float* out, uint32_t*) {
       copy_async16(thread() * 16, in + 6400, 0);
       copy_commit();
       copy_wait<0>();
       store_global(out + thread(), float_of_bits(load_shared4(thread() * 16)));
     }},

    // Lanes that part
    {"a lane that leaves a collective out",
     [](const float*, float*, uint32_t*) {
       if (thread() != 5) shuffle_xor(1, 1);
     }},
    {"lanes at two collectives",
     [](const float*, float*, uint32_t*) {
       if (lane() < 16) {
         shuffle_xor(1, 1);
       } else {
         shuffle_xor(1, 2);
       }
     }},
    {"a lane that runs a loop once more",
     [](const float*, float*, uint32_t*) {
       for (int i = 0; i < 3 + (lane() == 7); ++i) shuffle_xor(1, 1);
       sync_threads();
     }},
    {"warps that run a loop differently often",
     [](const float*, float*, uint32_t*) {
       for (int i = 0; i < 3 + warp(); ++i) shuffle_xor(1, 1);
       sync_threads();
     }},
    {"a barrier that one warp leaves out",
     [](const float*, float*, uint32_t*) {
       if (warp() == 0) sync_threads();
     }},
    {"lanes at two barriers",
     [](const float*, float*, uint32_t*) {
       if (lane() < 16) {
         sync_threads();
       } else {
         sync_threads();
       }
     }},

    // Global memory
    {"two warps that write one address", [](const float*, float* out, uint32_t*) { store_global(out + lane(), 1.0f); }},
    {"two blocks that write one address",
     [](const float*, float* out, uint32_t*) { store_global(out + thread(), 1.0f); }, 64, 2},
    {"a write over what another block reads",
     [](const float*, float*, uint32_t* counter) {
       if (thread() == 0) load_written(counter);
       sync_threads();
       if (thread() == 0 && block_x() == 1) store_global(counter, 1u);
     },
     64, 2},
    {"two blocks that count in one word",
     [](const float*, float* out, uint32_t* counter) {
       if (block_x() == 0) store_global(out + thread(), 1.0f);
       atomic_inc(counter, 1000);
     },
     64, 2},
    {"a read of another warp's global bytes without a barrier",
     [](const float*, float* out, uint32_t*) {
       store_global(out + thread(), 1.0f);
       load_written(out + (thread() ^ 32));
     }},
    {"the read-only path to bytes of this launch",
     [](const float*, float* out, uint32_t*) {
       store_global(out + thread(), 1.0f);
       load_global(out + thread());
     }},
    {"a sum over blocks, everyone fences before the barrier",
     [](const float*, float* out, uint32_t* counter) {
       store_global(out + 32 * block_x() + thread(), 1.0f);
       fence_global();
       sync_threads();
       if (thread() == 0) store_shared4(0, atomic_inc(counter, 1));
       sync_threads();
       if (load_shared4(0) != 1) return;
       fence_global();
       const float sum = load_written(out + thread()) + load_written(out + 32 + thread());
       sync_threads();
       store_global(out + thread(), sum);
     },
     32, 2},
    {"a sum over blocks, the counting thread fences after the barrier",
     [](const float*, float* out, uint32_t* counter) {
       store_global(out + 32 * block_x() + thread(), 1.0f);
       sync_threads();
       if (thread() == 0) {
         fence_global();
         store_shared4(0, atomic_inc(counter, 1));
         fence_global();
       }
       sync_threads();
       if (load_shared4(0) == 1) load_written(out + thread()), load_written(out + 32 + thread());
     },
     32, 2},
    {"a sum over blocks without a fence",
     [](const float*, float* out, uint32_t* counter) {
       store_global(out + 32 * block_x() + thread(), 1.0f);
       sync_threads();
       if (thread() == 0) store_shared4(0, atomic_inc(counter, 1));
       sync_threads();
       if (load_shared4(0) == 1) load_written(out + thread()), load_written(out + 32 + thread());
     },
     32, 2},
    {"a sum over blocks without a barrier before the fence",
     [](const float*, float* out, uint32_t* counter) {
       store_global(out + 32 * block_x() + thread(), 1.0f);
       if (thread() == 0) {
         fence_global();
         store_shared4(0, atomic_inc(counter, 1));
         fence_global();
       }
       sync_threads();
       if (load_shared4(0) == 1) load_written(out + thread()), load_written(out + 32 + thread());
     },
     32, 2},
    {"a sum over blocks by one that doesn't count",
     [](const float*, float* out, uint32_t* counter) {
       store_global(out + 32 * block_x() + thread(), 1.0f);
       sync_threads();
       if (thread() == 0) {
         fence_global();
         if (block_x() == 0) atomic_inc(counter, 1);
       }
       sync_threads();
       if (block_x() == 1) load_written(out + thread());
     },
     32, 2},
    {"a sum over blocks that count in two words",
     [](const float*, float* out, uint32_t* counter) {
       store_global(out + 32 * block_x() + thread(), 1.0f);
       sync_threads();
       if (thread() == 0) {
         fence_global();
         atomic_inc(counter + block_x(), 1);
         fence_global();
       }
       sync_threads();
       if (block_x() == 1) load_written(out + thread());
     },
     32, 2},
    {"a sum over blocks without a barrier after the count",
     [](const float*, float* out, uint32_t* counter) {
       store_global(out + 32 * block_x() + thread(), 1.0f);
       sync_threads();
       uint32_t old = 0;
       if (thread() == 0) {
         fence_global();
         old = atomic_inc(counter, 1);
         fence_global();
       }
       if (shuffle_from(old, 0) == 1) load_written(out + 31 - thread());
     },
     32, 2},

    {"a metadata word that isn't in order",
     [](const float*, float*, uint32_t*) {
       int32_t d[4] = {};
       const uint32_t a[4] = {}, b[4] = {};
       mma_sparse_s8(d, a, b, lane() == 9 ? 0x44444445u : 0x44444444u);
     }},
};

void run(const Case& c) {
  emulator::DeviceMemory memory;
  std::vector<float> values(64);
  for (int i = 0; i < 64; ++i) values[i] = static_cast<float>(i);
  const float* in = memory.input("in", values);
  float* out = memory.output<float>("out", 64);
  uint32_t* counter = memory.in_out("counter", std::vector<uint32_t>{0, 0});
  emulator::Machine machine;
  machine.options = c.options;
  machine.memory = &memory;
  const emulator::Grid grid{c.blocks, 1, 1, c.threads, 1024};
  emulator::launch(machine, c.name, grid, [&] { c.kernel(in, out, counter); });
}

}  // namespace

int main(int argc, char** argv) {
  return emulator::finish([&] {
    for (const Case& c : kCases) {
      if (argc < 2) std::printf("%s\n", c.name);
      if (argc < 2 || std::string(argv[1]) != c.name) continue;
      run(c);
      std::printf("nothing to report\n");
    }
  });
}
