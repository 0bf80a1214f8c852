"""Products of float activations and 4-bit or 8-bit weights: on the emulator, as PTX, and as machine code."""

import numpy as np
import pytest
import torch

from kdnative.formats.gpu import w4a16
from kdnative.formats.scheme import Scheme
from kdnative.quantize import quantize_weight
from tests.gpu import building, compiling, ptx
from tests.gpu.common import GRID, NUMBERS, memory_of, modes, needs_compiler, needs_nvrtc

TILES = {"16": (16, 128, 29696), "64": (64, 128, 40704), "128": (128, 256, 87040)}
"""Rows and threads of each tile, and its bytes of shared memory with 4 bits."""
PROGRAM = building.ROOT / "tests" / "gpu" / "w4a16_test.cpp"


@needs_compiler
@pytest.mark.timeout(3600)  # the long grid takes minutes, more where the machine is shared
def test_on_the_emulator():
    building.run(building.build(PROGRAM), *GRID)


@needs_compiler
def test_with_sanitizers():
    building.run(building.build(PROGRAM, sanitize=True), "quick")


@needs_compiler
def test_layout_is_that_of_the_package():
    for line in building.run(building.build(PROGRAM), "layout"):
        n, k, bits, group, zeros, bias, input_scales = line["given"]
        form = (n, k, bits, group, bool(zeros), bool(bias), bool(input_scales))
        assert line["bytes"] == w4a16.size(*form)
        sizes = w4a16._sizes(*form)
        starts = [w4a16.sections.total(sizes[:i]) if sizes[i] else -1 for i in range(len(sizes))]
        assert line["offsets"] == starts


@needs_compiler
def test_accesses_are_as_few_as_can_be():
    cases = building.run(building.build(PROGRAM), "counters")
    assert len(cases) == 20
    for counters in cases:
        assert building.worst_ratio(counters, "shared") == 1, counters["kernel"]
        assert building.worst_ratio(counters, "global") == 1, counters["kernel"]
        bits, way = counters["kernel"].split("_", 1)
        if way.startswith("gemv"):
            assert building.sectors_bytes(counters, "no_allocate") == 128 * 512 * int(bits[1]) // 8
        if way.startswith("gemm"):
            m, n, k, _ = (int(word) for word in counters["case"].split())
            rows = TILES[way.split("_")[1]][0]
            bits, group = int(bits[1]), 128 if bits[1] == "4" else None
            scales = 0 if group is None else n * (k // group) * 5  # and zero points
            # Each tile reads its rows and its weights once.
            least = m * k * 2 * (n // 128) + (n * k * bits // 8 + scales) * (m // rows)
            moved = building.sectors_bytes(counters, "cp.async")
            assert least <= moved <= 1.1 * least, counters["kernel"]


def _problem(m, n, k, scheme, dtype, seed=0):
    """x, a weight, a bias, and the product with relu in float64 with the bound of its error."""
    generator = torch.Generator().manual_seed(seed + m + n + k)
    weight = quantize_weight(torch.randn(n, k, generator=generator), Scheme.parse(scheme))
    bias = torch.randn(n, generator=generator)
    x = torch.randn(m, k, generator=generator).to(dtype)
    steps = weight.qweight.double().view(n, -1, weight.group_size or k)
    if weight.zero is not None:
        steps = steps - weight.zero.double().view(n, -1, 1)
    plain = (steps * weight.scale.double().view(n, -1, 1)).view(n, k)
    factors = (x.bfloat16() if dtype == torch.float32 else x).double()
    expected = torch.relu(factors @ plain.t() + bias.double())
    # 34 roundings or truncations in the two mma of a unit; its scale; units, warps and blocks are added one by one.
    units = -(-k // 32)
    roundings = (2 * 34 + units if weight.bits == 4 else 68 + 4 * units) + 16
    error = factors.abs() @ plain.abs().t() * roundings * 2.0**-24
    unit = {torch.float32: 2.0**-23, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[dtype]
    return x, weight, bias, expected, error + (expected + error) * unit + 1e-7


def _sections(weight, bias):
    """codes, scale, zero points and bias of the packed weight, as numpy arrays; None: there is none."""
    n, k = weight.qweight.shape
    form = (n, k, weight.bits, weight.group_size or 0, weight.zero is not None, True, False)
    packed = w4a16.pack(weight, bias)
    parts = [part.numpy() if part.numel() else None for part in w4a16.sections.split(packed, w4a16._sizes(*form))]
    return parts[:4], {None: 30, 32: 0, 64: 1, 128: 2}[weight.group_size]


def shared_bytes(tile, bits):
    """Of a block, as ``csrc/cuda/w4a16.h`` says."""
    return TILES[tile][2] + (0 if bits == 4 else {"16": 11264, "64": 8448, "128": 11264}[tile])


FACTORS = {"bf16": torch.bfloat16, "f16": torch.float16}
GEMMS = [f"w{bits}a16_gemm_{tile}_{kind}" for tile in TILES for bits in (4, 8) for kind in FACTORS]
GEMVS = {
    "w4a16_gemv_f16": (1, 33, 384, "w4a16-g128", torch.float16, 1),
    "w4a16_gemv_bf16": (8, 20, 256, "w4a16-g32-asym", torch.float32, 2),
    "w8a16_gemv_bf16": (3, 31, 77, "w8a16", torch.bfloat16, 1),
    "w8a16_gemv_f16": (2, 5, 33, "w8a16", torch.float16, 1),
}
"""m, n and k, scheme, type of x and splits."""
DEQUANTIZERS = {
    "w4a16_dequantize_f16": (33, 64, "w4a16-g32-asym"),
    "w4a16_dequantize_bf16": (5, 128, "w4a16-g64"),
    "w8a16_dequantize_f16": (31, 45, "w8a16"),
    "w8a16_dequantize_bf16": (3, 40, "w8a16"),
}
"""n and k, and the scheme."""
ROWS = {torch.float32: "w4a16_rows_bf16", torch.bfloat16: "w4a16_rows_bf16", torch.float16: "w4a16_rows_f16"}
SHAPES = {
    ("16", 4): (5, 35, 256, "w4a16-g64-asym", 2),
    ("16", 8): (3, 33, 72, "w8a16", 1),
    ("64", 4): (17, 36, 160, "w4a16-g32", 1),
    ("64", 8): (19, 34, 136, "w8a16", 2),
    ("128", 4): (65, 40, 128, "w4a16-g128-asym", 2),
    ("128", 8): (9, 31, 104, "w8a16", 2),
}
"""m, n and k, scheme and splits for each tile and number of bits."""


def bits_and_type(name):
    return int(name[1]), FACTORS[name.rpartition("_")[2]]


@needs_nvrtc
def test_every_kernel_runs_as_ptx():
    interpreted = {*GEMMS, *GEMVS, *DEQUANTIZERS, *ROWS.values()}
    assert set(compiling.ptx_of("w4a16").kernels) == interpreted


@needs_nvrtc
@pytest.mark.parametrize(("name", "lazy"), modes(GEMMS))
def test_ptx_of_many_rows(name, lazy):
    bits, dtype = bits_and_type(name)
    tile = name.split("_")[2]
    m, n, k, scheme, splits = SHAPES[tile, bits]
    x, weight, bias, expected, error = _problem(m, n, k, scheme, dtype)
    (codes, scale, zeros, shift), group = _sections(weight, bias)
    rows, threads, _ = TILES[tile]
    steps = -(-k // 64)
    each = -(-steps // splits)
    out = torch.full((m, n), float("nan"), dtype=dtype)
    partial, counters = np.zeros(splits * rows * 128, np.float32), np.zeros(1, np.uint32)
    ptx.run(
        compiling.ptx_of("w4a16"),
        name,
        (1, 1, -(-steps // each)),
        threads,
        [memory_of(x), codes, scale, zeros, shift, None, memory_of(out), partial, counters]
        + [NUMBERS[dtype], int(n % 4 == 0), 1, m, n, k, group, each],
        shared=shared_bytes(tile, bits),
        lazy=lazy,
    )
    assert ((out.double() - expected).abs() <= error).all()
    assert counters[0] == 0


@needs_nvrtc
@pytest.mark.parametrize("name", GEMVS)
def test_ptx_of_few_rows(name):
    m, n, k, scheme, dtype, splits = GEMVS[name]
    x, weight, bias, expected, error = _problem(m, n, k, scheme, dtype)
    (codes, scale, zeros, shift), group = _sections(weight, bias)
    units, strips = -(-k // 32), -(-n // 32)
    each = -(-units // splits)
    out = torch.full((m, n), float("nan"), dtype=dtype)
    partial, counters = np.zeros(strips * splits * 256, np.float32), np.zeros(strips, np.uint32)
    ptx.run(
        compiling.ptx_of("w4a16"),
        name,
        (strips, splits),
        256,
        [memory_of(x), codes, scale, zeros, None, shift, None, memory_of(out), partial, counters]
        + [NUMBERS[dtype], int(k % 2 == 0), int(n % 4 == 0), 1, m, n, k, group, each],
        shared=max(m * (each * 64 + 16) + each * 160, 8208),
    )
    assert ((out.double() - expected).abs() <= error).all()
    assert not counters.any()


@needs_nvrtc
@pytest.mark.parametrize("name", DEQUANTIZERS)
def test_ptx_of_dequantization(name):
    n, k, scheme = DEQUANTIZERS[name]
    _, dtype = bits_and_type(name)
    weight = quantize_weight(torch.randn(n, k), Scheme.parse(scheme))
    (codes, scale, zeros, _), group = _sections(weight, torch.zeros(n))
    out = torch.full((n, k), float("nan"), dtype=dtype)
    blocks = -(-(-(-n // 32) * -(-k // 32)) // 8)
    ptx.run(
        compiling.ptx_of("w4a16"),
        name,
        blocks,
        256,
        [codes, scale, zeros, None, memory_of(out), n, k, group],
        shared=16384,
    )
    assert torch.equal(out, weight.dequantize().to(dtype))


@needs_nvrtc
@pytest.mark.parametrize("dtype", ROWS, ids=str)
def test_ptx_of_rows(dtype):
    m, k = 3, 45
    x, scales = torch.randn(m, k).to(dtype), torch.ones(64)
    scales[:k] = torch.rand(k) + 0.5
    x[1, 7] = float("nan")
    factors = torch.float16 if dtype == torch.float16 else torch.bfloat16
    out = torch.full((m, 64), 7.0, dtype=factors)
    args = [memory_of(x), scales.numpy(), memory_of(out), NUMBERS[dtype], 0, k, 64]
    ptx.run(compiling.ptx_of("w4a16"), ROWS[dtype], m, 256, args)
    expected = (x.float() * scales[:k]).to(factors)
    assert torch.equal(out[:, :k].nan_to_num(9), expected.nan_to_num(9)) and not out[:, k:].any()
