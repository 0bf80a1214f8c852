"""The int8 product for GPUs: its kernels on the emulator, as PTX and as machine code, and where packed weights lie."""

import numpy as np
import pytest
import torch

from kdnative.formats import QuantizedWeight
from kdnative.formats.gpu import w8a8
from tests.gpu import building, compiling, ptx
from tests.gpu.common import GRID, TYPES, memory_of, modes, needs_compiler, needs_nvrtc
from tests.gpu.int8_cases import case

TILES = {
    "128x128": (128, 128, 256, 65536),
    "128x128_short": (128, 128, 256, 49152),
    "64x64": (64, 64, 128, 32768),
    "64x32": (64, 32, 128, 49152),
    "16x32": (16, 32, 128, 36864),
}
"""Rows, columns, threads and bytes of shared memory of each tile, as ``csrc/cuda/w8a8.h`` launches it."""
PROGRAM = building.ROOT / "tests" / "gpu" / "w8a8_test.cpp"


@needs_compiler
def test_on_the_emulator():
    building.run(building.build(PROGRAM), *GRID)


@needs_compiler
def test_with_sanitizers():
    building.run(building.build(PROGRAM, sanitize=True, flags=["-O0"]), "quick")


@needs_compiler
def test_accesses_are_as_few_as_can_be():
    cases = building.run(building.build(PROGRAM), "counters")
    assert len(cases) == 2 * len(TILES)
    for counters in cases:
        assert building.worst_ratio(counters, "shared") == 1
        assert building.worst_ratio(counters, "global") == 1
        rows, columns, _, _ = TILES[counters["kernel"].removeprefix("w8a8_").rpartition("_")[0]]
        # Four blocks, 1,024 bytes of k: nothing is read twice by a block.
        assert building.sectors_bytes(counters, "cp.async") == 4 * 1024 * (rows + columns)


@needs_compiler
def test_sections_lie_where_python_puts_them():
    lines = building.run(building.build(PROGRAM), "layout")
    assert len(lines) == 12
    for line in lines:
        n, k, bias, inputs, group = line["given"]
        sizes = [n * -(-k // w8a8.PAD_K) * w8a8.PAD_K, 4 * n, 4 * n * bias, 4 * k * inputs]
        sizes += [n * k // group] * 2 if group else [0, 0]
        starts = np.cumsum([0, *(-(-size // 256) * 256 for size in sizes)])
        assert line["offsets"] == [start if size else -1 for start, size in zip(starts, sizes, strict=False)]
        assert line["bytes"] == starts[-1] == w8a8.size(n, k, bool(bias), bool(inputs), group)


SHAPES = {
    "128x128": (19, 131, 170),
    "128x128_short": (130, 36, 140),
    "64x64": (66, 7, 130),
    "64x32": (5, 33, 515),
    "16x32": (17, 40, 700),
}
"""m, n and k: more than one tile, and more stages than one, of the tiles that are small."""
NAMES = [f"w8a8_{tile}_{kind}" for tile in TILES for kind in TYPES]


@needs_nvrtc
def test_every_kernel_runs_as_ptx():
    assert sorted(compiling.ptx_of("w8a8").kernels) == sorted(NAMES)


@needs_nvrtc
@pytest.mark.parametrize(("name", "lazy"), modes(NAMES))
def test_ptx(name, lazy):
    tile, _, kind = name.removeprefix("w8a8_").rpartition("_")
    m, n, k = SHAPES[tile]
    qweight = torch.from_numpy(np.random.default_rng(1).integers(-127, 128, (n, k)).astype(np.int8))
    given = case(m, qweight)
    packed = w8a8.pack(QuantizedWeight(qweight, given.weight.scale, None, 8, None)).numpy()
    residual, out, expected = given.output(TYPES[kind])
    rows, columns, threads, shared = TILES[tile]
    factors = [given.rows, given.scale, packed, given.weight.scale.numpy(), given.bias.numpy()]
    ptx.run(
        compiling.ptx_of("w8a8"),
        name,
        -(-m // rows) * -(-n // columns),
        threads,
        [*factors, memory_of(residual), memory_of(out), m, n, given.rows.shape[1], 1, n % 4 == 0],
        shared=shared,
        lazy=lazy,
    )
    assert torch.equal(out, expected)


@needs_nvrtc
@pytest.mark.parametrize("activation", range(6))
def test_activations_in_ptx_are_those_of_the_cpu(activation):
    """The product of no inputs but a bias is the bias: activations of chosen numbers, and of no number."""
    from kdnative.ops import reference  # noqa: F401 - registers the operators

    special = [0.0, -0.0, 1e-30, 5.2, -5.2, 9.01, -9.02, 87.4, -88.8, 88.72, torch.inf, -torch.inf, torch.nan]
    bias = torch.cat([torch.tensor(special), torch.linspace(-12, 12, 128 - len(special))])
    n, out = len(bias), np.full((1, len(bias)), np.nan, np.float32)
    weight = QuantizedWeight(torch.zeros(n, 32, dtype=torch.int8), torch.ones(n), None, 8, None)
    rows, ones = np.zeros((1, 128), np.int8), np.ones(n, np.float32)
    arguments = [rows, ones[:1], np.zeros((n, 128), np.int8), ones, bias.numpy(), None, out, 1, n, 128, activation, 1]
    ptx.run(compiling.ptx_of("w8a8"), "w8a8_16x32_f32", -(-n // 32), 128, arguments, shared=36864)
    packed = torch.ops.kdnative.linear_w8a8(torch.zeros(1, 32), _dense(weight, bias), n, activation)
    np.testing.assert_array_equal(out, packed.numpy())


def _dense(weight, bias):
    from kdnative.formats import dense

    return dense.pack(weight, bias)
