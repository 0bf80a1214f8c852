"""The table of kernels and the bounds of time, by hand; with ``KDNATIVE_GPU_GRID=1`` also that the page is new."""

from __future__ import annotations

import os

import pytest

from kdnative.ops import nvrtc
from tests.gpu import building, compiling, kernel_table, sass, time_bound
from tests.gpu.kernel_table import Counted, Kernel

PAGE = building.ROOT / "docs" / "gpu_kernels.md"


def function(name, registers, stack=0, mmas=0):
    lines = [sass.Line(16 * n, "IMMA.16832" if n < mmas else "IADD3", "") for n in range(8)]
    lines.append(sass.Line(128, "BRA", "0x0"))
    return sass.Function(name, registers, stack, 0, 0, tuple(lines))


@pytest.fixture
def one_kernel(monkeypatch):
    """A family of one tile, 128 x 128, two types; three instructions for each mma in its hot loop."""
    found = {
        arch: [
            function("w8a8_128x128_f32", 100, mmas=3),
            function("w8a8_128x128_f16", 128 if arch == 90 else 96, mmas=3),
        ]
        for arch in kernel_table.ARCHITECTURES
    }
    counted = Counted(256, 64 * 1024, 1.0, 1.0, 1.06, 8192.0, (256, 256, 1024))
    kernel = Kernel("w8a8", "w8a8_128x128", found, counted)
    monkeypatch.setattr(kernel_table, "kernels", lambda family: {kernel.name: kernel})
    return kernel


def test_a_row(one_kernel):
    rows = kernel_table.table("w8a8").splitlines()
    assert rows[2] == (
        "| `w8a8_128x128` | 256 | 64 | 100 / 100 / 100 / 128 | 2 / 1 / 1 / 2 | 3.0 | 0 | 0 | 1.00 | 1.00 | 1.06 |"
    )
    one_kernel.functions[80].append(function("w8a8_128x128_bf16", 100, stack=24))
    row = kernel_table.table("w8a8").splitlines()[2]
    assert "| 24 | 0 |" in row  # stack, no accesses of it
    assert "| 3.0 |" in row  # still of sm_86 and later: sm_80 has a type without any loop of products


def test_bounds_by_hand(one_kernel):
    m, n, k = 12 * 128, 9 * 128, 4096  # a block for each of 108 multiprocessors
    products = 1e6 * 2 * 128 * 128 * k / 4096 / 1.41e9  # 4,096 operations a cycle
    rows_once = 1e6 * 3 * m * k / 2.039e12  # two bytes in, one out
    whole = time_bound.bound("w8a8", time_bound.A100, m, n, k)
    assert whole.microseconds == pytest.approx(products + rows_once) and whole.resource == "tensor cores"
    # A row more is nine blocks more: some multiprocessors have two.
    more = time_bound.bound("w8a8", time_bound.A100, m + 1, n, k)
    assert more.microseconds == pytest.approx(2 * products + rows_once, rel=1e-3)
    one, outputs = time_bound.bound("w8a8", time_bound.A100, 1, 1024 * 128, k), 1024 * 128
    assert one.resource == "memory"
    assert one.microseconds == pytest.approx(1e6 * (outputs * k + 2 * outputs + 4 * k) / 2.039e12)
    few = time_bound.bound("w8a8", time_bound.A100, 1, 128, 64 * k)
    assert few.microseconds == pytest.approx(64 * products + 1e6 * 3 * 64 * k / 2.039e12)
    one_kernel.counted.loop_cycles = 16384.0  # of 1,024 inputs
    banks = time_bound.bound("w8a8", time_bound.A100, m, n, k)
    assert banks.resource == "banks"
    assert banks.microseconds == pytest.approx(1e6 * 4 * 16384 / 1.41e9 + rows_once)
    one_kernel.functions[80] = [function("w8a8_128x128_f32", 100, mmas=1)]  # 9 instructions for each
    one_kernel.counted.loop_cycles = 0.0
    issue = time_bound.bound("w8a8", time_bound.A100, m, n, k)
    assert issue.resource == "issue"
    assert issue.microseconds == pytest.approx(products * 9 / 8 + rows_once)  # an mma takes eight cycles


def test_pages_are_filled(one_kernel):
    page = "before\n<!-- gpu: w8a8 -->\nold\n<!-- end -->\nbetween\n<!-- gpu: bound:w8a8 -->\n<!-- end -->\nafter\n"
    filled = kernel_table.filled(page)
    assert "old" not in filled and filled.startswith("before\n<!-- gpu: w8a8 -->\n\n| kernel |")
    assert filled.count("`w8a8_128x128`") == 1 + len(time_bound.PEERS) and filled.endswith("<!-- end -->\nafter\n")
    assert kernel_table.filled(filled) == filled


@pytest.mark.skipif(os.environ.get("KDNATIVE_GPU_GRID") != "1", reason="it compiles every kernel: KDNATIVE_GPU_GRID=1")
@pytest.mark.skipif(sass.missing() is not None, reason=str(sass.missing()))
@pytest.mark.skipif(compiling.missing() is not None, reason=str(compiling.missing()))
def test_the_page_is_up_to_date():
    page = PAGE.read_text(encoding="utf-8")
    assert f"NVRTC {nvrtc.load().version_text}" in page, "compiled by another NVRTC than the one of the page"
    kernel_table.kernels.cache_clear()
    assert kernel_table.filled(page) == page, "python -m tests.gpu.kernel_table docs/gpu_kernels.md"
    for family in kernel_table.families():
        for kernel in kernel_table.kernels(family).values():
            assert kernel.stack == kernel.local_accesses == 0, kernel.name
