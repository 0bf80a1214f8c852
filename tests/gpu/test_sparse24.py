"""The 2:4 int8 product for GPUs: its packed weight, and its kernels emulated, as PTX and as machine code."""

import pytest
import torch
from torch.sparse import _semi_structured_conversions as torchs

from kdnative.formats import QuantizedWeight
from kdnative.formats.gpu import sparse24
from tests.gpu import building, compiling, ptx
from tests.gpu.common import GRID, NUMBERS, TYPES, memory_of, modes, needs_compiler, needs_nvrtc
from tests.gpu.int8_cases import case, two_of_four

KERNELS = {"large": (128, 128, 128, 79872), "medium": (64, 64, 128, 39936), "small": (16, 32, 128, 55296)}
"""Rows, outputs, threads and bytes of shared memory of each tile, as ``csrc/cuda/sparse24.h`` launches it."""
PROGRAM = building.ROOT / "tests" / "gpu" / "sparse24_test.cpp"


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (17, 130), (33, 256), (64, 515)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_packs_and_unpacks(shape, with_bias):
    n, k = shape
    weight = QuantizedWeight(two_of_four(n, k), torch.rand(n) + 0.1, None, 8, None)
    bias = torch.randn(n) if with_bias else None
    packed = sparse24.pack(weight, bias)
    assert packed.numel() == sparse24.size(n, k, with_bias)
    back, shift = sparse24.unpack(packed, n, k, with_bias)
    assert torch.equal(back.qweight, weight.qweight) and torch.equal(back.scale, weight.scale)
    assert shift is None if bias is None else torch.equal(shift, bias)
    assert torch.equal(sparse24.pack(back, shift), packed)


def test_metadata_is_that_of_cutlass():
    """torch has the order of CUTLASS's metadata: tiles of 16 rows and 64 columns, those of 64 columns first."""
    n, k = 48, 256
    qweight = torch.randint(1, 127, (n, k // 4, 4), dtype=torch.int8)
    qweight.scatter_(2, torch.rand(n, k // 4, 4).argsort(-1)[..., :2], 0)  # two zeros of four, no less
    qweight = qweight.view(n, k)
    packed = sparse24.pack(QuantizedWeight(qweight, torch.ones(n), None, 8, None))
    tiles = packed[: n // 16 * (k // 64) * 640].view(n // 16, k // 64, 640)
    # Row g + 8 h of an instruction is output 2 g + h.
    rows = torch.arange(n).view(-1, 8, 2).transpose(1, 2).reshape(-1)
    codes, metadata = torchs.sparse_semi_structured_from_dense_cutlass(qweight[rows])
    ours = tiles[..., 512:].contiguous().view(torch.int32).transpose(0, 1)
    assert torch.equal(ours.flatten(), metadata.flatten())
    # Lane 4 g + t: bytes 4 t ... of rows g and g + 8, then those 16 bytes on.
    lanes = tiles[..., :512].contiguous().view(torch.int8).view(n // 16, k // 64, 8, 4, 2, 2, 4)
    plain = codes.view(n // 16, 2, 8, k // 64, 2, 4, 4).permute(0, 3, 2, 5, 4, 1, 6)
    assert torch.equal(lanes, plain)


def test_refuses_in_words():
    weight = QuantizedWeight(torch.ones(4, 8, dtype=torch.int8), torch.ones(4), None, 8, None)
    with pytest.raises(ValueError, match="2:4 keeps two of four.*output 0, inputs 0 to 3"):
        sparse24.pack(weight)
    few = weight.changed(qweight=two_of_four(4, 8))
    with pytest.raises(ValueError, match="input scales can't be packed as 2:4; pack these dense"):
        sparse24.pack(few.changed(input_scale=torch.ones(8)))
    with pytest.raises(ValueError, match="got 4 bits in groups of 4.*pack these dense"):
        sparse24.pack(QuantizedWeight(two_of_four(4, 8) % 7, torch.ones(4, 2), None, 4, 4))
    with pytest.raises(ValueError, match=r"damaged.*\[4, 8\] without a bias has 2816 bytes; pack it again"):
        sparse24.unpack(sparse24.pack(few)[:-1], 4, 8, False)


@needs_compiler
def test_on_the_emulator():
    building.run(building.build(PROGRAM), *GRID)


@needs_compiler
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_host_finds_the_same_parts(with_bias):
    """A scale and a bias that are told from what surrounds them, where the host says."""
    n, k = 70, 300
    weight = QuantizedWeight(two_of_four(n, k), torch.rand(n) + 0.1, None, 8, None)
    packed = sparse24.pack(weight, torch.randn(n) if with_bias else None)
    (at,) = building.run(building.build(PROGRAM), "offsets", str(n), str(k), str(int(with_bias)))
    assert at["bytes"] == packed.numel()
    assert torch.equal(packed[at["scale"] :][: 4 * n].view(torch.float32), weight.scale)
    if with_bias:
        bias = sparse24.unpack(packed, n, k, True)[1]
        assert torch.equal(packed[at["bias"] :][: 4 * n].view(torch.float32), bias)


@needs_compiler
def test_with_sanitizers():
    building.run(building.build(PROGRAM, sanitize=True), "quick")


@needs_compiler
def test_accesses_are_as_few_as_can_be():
    cases = building.run(building.build(PROGRAM), "counters")
    assert len(cases) == len(KERNELS)
    for counters in cases:
        assert building.worst_ratio(counters, "shared") == 1
        assert building.worst_ratio(counters, "global") == 1
        name = counters["kernel"].split("_")[1]
        rows, outputs, threads, shared = KERNELS[name]
        assert counters["launches"][counters["kernel"]] == {"blocks": 2, "threads": threads, "shared": shared}
        # Two launches of one tile: its rows, and its outputs at 5 of 8 bytes.
        least = 2 * 1024 * (rows + outputs * 5 // 8)
        assert building.sectors_bytes(counters, "cp.async") == least, name


SHAPES = {"small": (19, 35, 300), "medium": (3, 66, 130), "large": (5, 33, 130)}


@needs_nvrtc
def test_every_kernel_runs_as_ptx():
    assert sorted(compiling.ptx_of("sparse24").kernels) == sorted(f"sparse24_{tile}" for tile in SHAPES)


@needs_nvrtc
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("tile", "lazy"), modes(list(SHAPES)))
def test_ptx(tile, kind, lazy):
    m, n, k = SHAPES[tile]
    given = case(m, two_of_four(n, k))
    packed = sparse24.pack(given.weight, given.bias).numpy()
    residual, out, expected = given.output(TYPES[kind])
    rows, outputs, threads, shared = KERNELS[tile]
    factors = [given.rows, given.scale, packed, given.weight.scale.numpy(), given.bias.numpy()]
    ptx.run(
        compiling.ptx_of("sparse24"),
        f"sparse24_{tile}",
        (-(-m // rows), -(-n // outputs)),
        threads,
        [*factors, memory_of(residual), memory_of(out), m, n, given.rows.shape[1], NUMBERS[out.dtype], 1, n % 4 == 0],
        shared=shared,
        lazy=lazy,
    )
    assert torch.equal(out, expected)
