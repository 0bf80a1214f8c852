"""How the linear operators go through rows: any strides, many rows in parts, shares of threads; and wrong headers."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from kdnative import ops
from kdnative.formats import dense, sparse
from kdnative.quantize import QuantizedWeight

KINDS = ["w8a8", "w4a8", "w8a16", "4x1", "mask"]


def layer(kind, n, k):
    """The operator of a random layer, as a function of its input."""
    g = torch.Generator().manual_seed(n + k)
    if kind == "w4a8":
        codes = torch.randint(-8, 8, (n, k), dtype=torch.int8, generator=g)
        packed, operator = dense.pack(QuantizedWeight(codes, torch.ones(n, k // 32), None, 4, 32)), ops.linear_w4a8
    else:
        codes = torch.randint(-127, 128, (n, k), dtype=torch.int8, generator=g)
        w = QuantizedWeight(codes, torch.ones(n), None, 8, None)
        if kind in ("4x1", "mask"):
            codes[torch.rand(n // 4, k, generator=g).repeat_interleave(4, 0) < 0.7] = 0
            packed, operator = sparse.pack(w, None, kind), ops.linear_sparse
        else:
            packed, operator = dense.pack(w), ops.LINEAR[8, int(kind[3:])]
    return lambda x: operator(x, packed, n, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_any_strides(isa, kind, dtype):
    """Also of rows whose columns are dense while the rows do not lie evenly apart."""
    multiply = layer(kind, 20, 64)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        for x in (
            torch.randn(7, 5, 64).transpose(0, 1),
            torch.randn(3, 7, 5, 64).permute(2, 0, 1, 3),
            torch.randn(9, 11, 70)[1:, 2:9, 3:67],
            torch.randn(4, 64).unsqueeze(1).expand(4, 6, 64),
            torch.randn(6, 64).expand(5, 6, 64),
            torch.randn(8, 64)[:1].expand(6, 64),
            torch.randn(2, 64, 9, 3).permute(2, 0, 3, 1),
        ):
            x = x.to(dtype) if x.dtype != dtype else x
            assert torch.equal(multiply(x), multiply(x.contiguous()))


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_go_in_parts(kind):
    """Each part has the bits of a call of its own, wherever it begins, and with any strides."""
    multiply, x = layer(kind, 4, 32), torch.randn(9001, 2, 32)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        want = torch.cat([multiply(part) for part in x.split(977)])
        assert torch.equal(multiply(x), want)
        assert torch.equal(multiply(x.transpose(0, 1)), want.transpose(0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_share_of_threads(isa, kind):
    """Rows and columns around the sizes at which the work is split in another way."""
    for n, k, rows in ((32, 1024, (40, 64, 127, 200)), (132, 512, (63, 65, 129, 192, 193, 257))):
        multiply = layer(kind, n, k)
        for m in rows if isa != "reference" else rows[:2]:
            x = torch.randn(m, k)
            torch.set_num_threads(1)
            want = multiply(x)
            for threads in (2, 3, 5):
                torch.set_num_threads(threads)
                assert torch.equal(multiply(x), want), (m, threads)


def test_memory_does_not_grow_with_the_rows():
    """What is kept for a thread's next call is that of one part."""
    code = """
import torch
from kdnative.bench.soak_memory import resident_bytes
from tests.native.test_rows import layer
calls = [layer(kind, 4, 512) for kind in ("w8a8", "w8a16", "4x1", "mask")]
x = torch.randn(100, 512).to(torch.bfloat16)
for call in calls: call(x)
x = torch.zeros(1, dtype=torch.bfloat16).expand(200_000, 512)
before = resident_bytes()
for call in calls: call(x)
print(resident_bytes() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 32 << 20  # all rows in int8 are 98 MB


@pytest.mark.parametrize("field", ["n_pad", "k_pad"])
@pytest.mark.parametrize("padded", [128, 2**31 - 64])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_header_with_impossible_sizes_is_refused(kind, field, padded):
    w = QuantizedWeight(torch.ones(40, 33, dtype=torch.int8), torch.ones(40), None, 8, None)
    if kind == "dense":
        packed, operator = dense.pack(w), ops.linear_w8a8
        first = 5  # magic, version, bits, n, k, n_pad, k_pad
    else:
        packed, operator = sparse.pack(w, None, "mask"), ops.linear_sparse
        first = 6  # magic, version, bits, format, n, k, n_pad, k_pad
    numbers = packed.numpy()[:128].view(np.int32)
    assert list(numbers[first : first + 2]) == [64, 64]
    numbers[first + ["n_pad", "k_pad"].index(field)] = padded
    with pytest.raises(RuntimeError, match="the packed weight has impossible sizes"):
        operator(torch.randn(2, 33), packed, 40, 0)
