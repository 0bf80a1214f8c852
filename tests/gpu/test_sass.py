"""What is read from cubins: of kernels whose loops, stack and instructions are known; and blocks by hand."""

from __future__ import annotations

import pytest

from kdnative.ops import nvrtc
from tests.gpu import sass
from tests.gpu.common import needs_nvrtc, needs_tools

SOURCE = """
__device__ void mma(int (&d)[4], int a, int b) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, {%5, %5}, "
               "{%0, %1, %2, %3};" : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a), "r"(b));
}
extern "C" __global__ void __launch_bounds__(64) products(const int* a, int* c, int n, int m) {
  int d[4] = {};
#pragma unroll 1
  for (int j = 0; j < m; ++j) {
    mma(d, j, j);
#pragma unroll 1
    for (int i = 0; i < n; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) mma(d, a[i], e);
    }
  }
#pragma unroll 1
  for (int i = 0; i < n; ++i) c[i] = d[i % 2] + __float2int_rn(i * 0.5f);
}
extern "C" __global__ void indexed(int* at, int* out) {
  int values[40];
#pragma unroll 1
  for (int i = 0; i < 40; ++i) values[at[i] % 40] = i;
  out[threadIdx.x] = values[at[threadIdx.x]];
}
"""


@pytest.fixture(scope="module")
def functions():
    return sass.functions(nvrtc.load().compile(SOURCE, "sm_80"))


@needs_tools
@needs_nvrtc
def test_the_hot_loop_is_the_inner_one(functions):
    products = functions["products"]
    assert products.count("IMMA") == 5 and products.local_accesses == 0 and products.stack == 0
    assert len(products.loops) == 3
    hot = products.hot_loop()
    assert hot.count(r"IMMA\.16832") == 4 and hot.mix["IMMA"] == 4
    assert products.instructions_per_mma == len(hot.code) / 4
    assert hot.code[-1].opcode.startswith("BRA") and hot.count("LDG") == 1
    assert products.hot_loop("STG").count("IMMA") == 0
    assert functions["indexed"].instructions_per_mma is None


@needs_tools
@needs_nvrtc
def test_problems_in_words(functions):
    indexed = functions["indexed"]
    assert indexed.stack >= 160 and indexed.local_accesses >= 2
    assert sass.problems(indexed)[0].startswith(f"indexed: {indexed.stack} bytes of stack, ")
    products = functions["products"]
    assert sass.problems(products, instructions_per_mma=20, expected=r"IMMA\.16832", forbidden="I2F|LDL") == []
    found = sass.problems(products, registers=8, instructions_per_mma=1, expected="HMMA", forbidden="IMMA")
    assert found[0] == f"products: {products.registers} registers, at most 8"
    assert found[1].endswith("instructions for each tensor instruction, at most 1")
    assert found[2:] == ["products: no instruction HMMA", "products: 4 instructions IMMA"]
    assert "None instructions for each" in sass.problems(indexed, instructions_per_mma=6)[1]


@needs_tools
def test_no_cubin():
    with pytest.raises(RuntimeError, match="cuobjdump"):
        sass.functions(b"nothing of the kind")


@pytest.mark.parametrize(
    "arch, registers, threads, shared, blocks",
    [
        (80, 128, 256, 0, 2),  # 65536 / (128 * 256)
        (80, 129, 256, 0, 1),  # 136 a thread: 17 KiB a warp over four partitions
        (80, 32, 256, 65536, 2),  # 164 KiB / 65 KiB
        (86, 32, 256, 65536, 1),
        (90, 32, 256, 65536, 3),
        (86, 32, 256, 100 * 1024, 0),  # more than a block can have
        (80, 16, 32, 0, 32),
        (86, 16, 32, 0, 16),
        (89, 16, 32, 0, 24),
        (86, 16, 256, 0, 6),  # 48 warps
    ],
)
def test_blocks_by_hand(arch, registers, threads, shared, blocks):
    function = sass.Function("f", registers, 0, 0, 0, ())
    assert function.blocks(arch, threads, shared) == blocks
