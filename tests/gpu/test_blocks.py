"""The block-sparse int8 product for GPUs: its packed weight, and its kernels emulated, as PTX and as machine code."""

import pytest
import torch

from kdnative.formats import QuantizedWeight
from kdnative.formats.gpu import blocks
from tests.gpu import building, compiling, ptx
from tests.gpu.common import GRID, NUMBERS, TYPES, memory_of, modes, needs_compiler, needs_nvrtc
from tests.gpu.int8_cases import case, in_blocks

TILES = {
    (64, "many"): (128, 64, 128, 49152),
    (64, "few"): (16, 64, 128, 81920),
    (32, "many"): (128, 32, 128, 40960),
    (32, "few"): (16, 32, 128, 49152),
    (16, "many"): (128, 128, 256, 65536),
    (16, "few"): (16, 16, 128, 32768),
}
"""Of each side of a block and number of rows: rows, outputs, threads and bytes of shared memory of a tile, as
``csrc/cuda/blocks.h`` launches it."""
PROGRAM = building.ROOT / "tests" / "gpu" / "blocks_test.cpp"


def plain(qweight: torch.Tensor) -> QuantizedWeight:
    return QuantizedWeight(qweight, torch.rand(qweight.shape[0]) + 0.1, None, 8, None)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (17, 130), (130, 300)])
@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize("kept", [0.0, 0.4, 1.0])
def test_packs_and_unpacks(shape, side, kept):
    n, k = shape
    weight, bias = plain(in_blocks(n, k, side, kept)), torch.randn(n) if n % 2 else None
    packed = blocks.pack(weight, bias, side)
    back, shift = blocks.unpack(packed, n, k, bias is not None, side)
    assert torch.equal(back.qweight, weight.qweight) and torch.equal(back.scale, weight.scale)
    assert shift is None if bias is None else torch.equal(shift, bias)
    assert torch.equal(blocks.pack(back, shift, side), packed)


def test_only_what_is_not_zero_is_stored():
    """By hand: two of four rows of blocks hold three and one of eight blocks."""
    q = torch.zeros(64, 128, dtype=torch.int8)
    for row, columns in ((1, (0, 3, 7)), (3, (2,))):
        for column in columns:
            q[16 * row + 5, 16 * column + 9] = 7
    packed = blocks.pack(plain(q), None, 16)
    assert packed.numel() == 2 * 1024 + 256 + 256 + 256  # two units, their columns, five starts, 64 scales
    assert packed[2048:2080].view(torch.int32).tolist() == [0, 3, 7, 0, 2, 0, 0, 0]
    assert packed[2304:2324].view(torch.int32).tolist() == [0, 0, 1, 1, 2]
    # Output 5 of 16 is row 2 + 8 of the fragment: lanes 8 to 11, the second 4 bytes. Input 9 is byte 1 of lane 2.
    assert packed[:2048].nonzero().flatten().tolist()[0] == (8 + 2) * 16 + 4 + 1
    assert blocks.stored(q, 16) == 2 * 1024 / (64 * 128)


def test_the_fastest_side_is_chosen():
    for side, kept in ((64, 0.1), (64, 0.9), (32, 0.05), (16, 0.1), (16, 0.8)):
        assert blocks.choose(in_blocks(512, 1024, side, kept)) == side
    assert blocks.choose(in_blocks(512, 1024, 64, 1.0)) is None
    assert blocks.choose(torch.zeros(64, 64, dtype=torch.int8)) == 64
    # Small blocks cost more, so they must leave out more; but blocks of 32 are blocks of 16 too, which share rows.
    assert blocks.choose(in_blocks(512, 1024, 32, 0.5)) == 16
    assert blocks.choose(in_blocks(512, 1024, 16, 0.95)) is None
    single = in_blocks(512, 1024, 1, 0.1)
    reason = blocks.refusal(single)
    assert "100% in blocks of 64 x 64 (less than 99% pays)" in reason and "dense is faster" in reason
    assert "(less than 59% pays)" in reason and "(less than 88% pays)" in reason
    assert blocks.refusal(in_blocks(512, 1024, 32, 0.2)) is None


def test_refuses_in_words():
    weight = plain(in_blocks(40, 70, 32, 0.5))
    with pytest.raises(ValueError, match="a side of 64, 32, 16 weights, not 48"):
        blocks.pack(weight, None, 48)
    with pytest.raises(ValueError, match="input scales can't be packed as block-sparse"):
        blocks.pack(weight.changed(input_scale=torch.ones(70)), None, 32)
    packed = blocks.pack(weight, None, 32)
    with pytest.raises(ValueError, match=r"damaged.*a weight \[40, 70\] in blocks of 32 with a bias has another size"):
        blocks.unpack(packed, 40, 70, True, 32)
    with pytest.raises(ValueError, match=r"not a packed weight: torch.int8.*a weight \[40, 70\]"):
        blocks.unpack(packed.view(torch.int8), 40, 70, False, 32)
    for wrong in (-1, 3):
        damaged = packed.clone()
        blocks.parts(damaged, 40, 70, False, 32)[1][0] = wrong
        with pytest.raises(ValueError, match="damaged.*its blocks are not those"):
            blocks.unpack(damaged, 40, 70, False, 32)
    start = packed.numel() - 512
    packed[start : start + 4].view(torch.int32).fill_(1)
    with pytest.raises(ValueError, match="damaged.*its blocks are not those"):
        blocks.unpack(packed, 40, 70, False, 32)


@needs_compiler
def test_on_the_emulator():
    building.run(building.build(PROGRAM), *GRID)


@needs_compiler
def test_damaged_weights_touch_nothing_else():
    building.run(building.build(PROGRAM), "damaged")


@needs_compiler
@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_host_finds_the_same_parts(side):
    n, k = 70, 3000
    for kept in (0.0, 0.4):
        for bias in (None, torch.randn(n)):
            packed = blocks.pack(plain(in_blocks(n, k, side, kept)), bias, side)
            given = [str(v) for v in (n, side, int(bias is not None))]
            (at,) = building.run(building.build(PROGRAM), "offsets", *given, str(packed.numel()))
            codes, columns, start, scale, shift = blocks.parts(packed, n, k, bias is not None, side)
            assert at["units"] * side * 64 == codes.numel()
            wanted = {"columns": columns, "start": start, "scale": scale} | ({} if bias is None else {"bias": shift})
            assert {name: at[name] for name in wanted} == {name: v.storage_offset() * 4 for name, v in wanted.items()}
            (at,) = building.run(building.build(PROGRAM), "offsets", *given, str(packed.numel() - 256))
            assert at["units"] == -1


@needs_compiler
def test_with_sanitizers():
    building.run(building.build(PROGRAM, sanitize=True), "quick")


@needs_compiler
def test_accesses_are_as_few_as_can_be():
    cases = building.run(building.build(PROGRAM), "counters")
    assert len(cases) == 6
    for counters in cases:
        assert building.worst_ratio(counters, "shared") == 1
        # Blocks of 16 inputs are half a sector of x, of which the other half is read for nothing where no neighbour is
        # kept. The columns of a row of blocks, 4 bytes for each, begin anywhere.
        most = {"blocks16_few": 1.24, "blocks32_few": 1.11}.get(counters["kernel"], 1)
        assert round(building.worst_ratio(counters, "global"), 2) == most
        assert building.bytes_ratio(counters) <= 1.1
        # Two launches of one tile of rows and 128 outputs, as the table above has them.
        side, rows_are = counters["kernel"].removeprefix("blocks").split("_")
        _, outputs, threads, shared = TILES[int(side), rows_are]
        launch = counters["launches"][counters["kernel"]]
        assert launch == {"blocks": 2 * 128 // outputs, "threads": threads, "shared": shared}


@needs_nvrtc
def test_every_kernel_runs_as_ptx():
    assert sorted(compiling.ptx_of("blocks").kernels) == sorted(f"blocks{side}_{rows}" for side, rows in TILES)


@needs_nvrtc
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("tile", "lazy"), modes(list(TILES)))
def test_ptx(tile, kind, lazy):
    side, rows_are = tile
    m, n, k = (19, 70, 300) if rows_are == "few" else (5, 35, 257)
    given = case(m, in_blocks(n, k, side, 0.5))
    packed = blocks.pack(given.weight, given.bias, side)
    codes, columns, start, scale, bias = (part.numpy() for part in blocks.parts(packed, n, k, True, side))
    rows, outputs, threads, shared = TILES[tile]
    residual, out, expected = given.output(TYPES[kind])
    weight = [codes, columns, start, columns.size * side // 64, scale, bias]
    sizes = [m, n, given.rows.shape[1], NUMBERS[out.dtype], 1, n % 4 == 0]
    ptx.run(
        compiling.ptx_of("blocks"),
        f"blocks{side}_{rows_are}",
        (-(-m // rows), -(-n // outputs)),
        threads,
        [given.rows, given.scale, *weight, memory_of(residual), memory_of(out), *sizes],
        shared=shared,
        lazy=lazy,
    )
    assert torch.equal(out, expected)
