"""What NVRTC makes of every kernel: no stack, no spilled registers, short hot loops, and room for as many blocks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.gpu import compiling, sass
from tests.gpu.common import needs_nvrtc, needs_tools
from tests.gpu.test_blocks import TILES as BLOCKS
from tests.gpu.test_quantize import NAMES as QUANTIZE
from tests.gpu.test_sparse24 import KERNELS as SPARSE24
from tests.gpu.test_w4a16 import TILES as W4A16
from tests.gpu.test_w4a16 import shared_bytes
from tests.gpu.test_w8a8 import TILES as W8A8

ARCHITECTURES = (80, 86, 89, 90)


@dataclass(frozen=True)
class Wanted:
    """What is asked of a kernel; ``blocks`` that a multiprocessor holds at least, by architecture or everywhere."""

    threads: int
    shared: int
    blocks: int | tuple[int, int, int, int]
    registers: int = 255
    per_mma: float | None = None  # instructions; None: it waits for memory
    expected: tuple[str, ...] = ()  # opcodes of its hot loop


def quantize() -> dict[str, Wanted]:
    return {name: Wanted(256, 96, 2, registers=96) for name in QUANTIZE}


def w8a8() -> dict[str, Wanted]:
    resident = {"128x128": (2, 1, 1, 2), "128x128_short": 2, "64x64": (4, 3, 3, 4), "64x32": (3, 2, 2, 4)}
    resident["16x32"] = (4, 2, 2, 4)
    opcodes = (r"IMMA\.16832\.S8\.S8", r"LDSM\.16\.M88\.4", r"LDGSTS\.E\.BYPASS\.128")
    found = {}
    for tile, (_, _, threads, shared) in W8A8.items():
        limit = None if tile == "16x32" else 6.0
        wanted = Wanted(threads, shared, resident[tile], 128, limit, opcodes)
        found |= {f"w8a8_{tile}_{kind}": wanted for kind in ("f32", "bf16", "f16")}
    return found


def w4a16() -> dict[str, Wanted]:
    # 8-bit weights take more shared memory, of which sm_86 and sm_89 have less.
    resident = {(4, "16"): 3, (8, "16"): (3, 2, 2, 3), (4, "64"): 2, (8, "64"): 2, (4, "128"): 1, (8, "128"): 1}
    found = {}
    for kind in ("bf16", "f16"):
        for bits in (4, 8):
            family = f"w{bits}a16"
            for tile, (_, threads, _) in W4A16.items():
                limit = {"16": None, "64": 8.0 if bits == 4 else 6.0, "128": 8.0 if bits == 4 else 6.0}[tile]
                registers, blocks = 168 if tile == "16" else 255, resident[bits, tile]
                shared = shared_bytes(tile, bits)
                found[f"{family}_gemm_{tile}_{kind}"] = Wanted(threads, shared, blocks, registers, limit, ("HMMA",))
            found[f"{family}_gemv_{kind}"] = Wanted(256, 8960, 2, 128, None, ("HMMA",))
            found[f"{family}_dequantize_{kind}"] = Wanted(256, 16384, 2, 128)
        found[f"w4a16_rows_{kind}"] = Wanted(256, 0, 2, 128)
    return found


def sparse24() -> dict[str, Wanted]:
    resident = {"large": (2, 1, 1, 2), "medium": (4, 2, 2, 4), "small": (2, 1, 1, 4)}
    limits = {"large": 6.0, "medium": 8.0, "small": None}
    return {
        f"sparse24_{tile}": Wanted(threads, shared, resident[tile], 255, limits[tile], (r"IMMA\.SP",))
        for tile, (_, _, threads, shared) in SPARSE24.items()
    }


def blocks() -> dict[str, Wanted]:
    resident = {(64, "many"): (3, 2, 2, 3), (64, "few"): (2, 1, 1, 2), (32, "many"): (4, 2, 2, 4)}
    resident |= {(32, "few"): (3, 2, 2, 4), (16, "many"): (2, 1, 1, 2), (16, "few"): (4, 3, 3, 4)}
    return {
        f"blocks{side}_{rows}": Wanted(
            threads, shared, resident[side, rows], 255, 6.0 if rows == "many" else None, ("IMMA",)
        )
        for (side, rows), (_, _, threads, shared) in BLOCKS.items()
    }


FAMILIES = {"quantize": quantize, "w8a8": w8a8, "w4a16": w4a16, "sparse24": sparse24, "blocks": blocks}


def test_every_family_is_here():
    from tests.gpu.kernel_table import families

    assert sorted(FAMILIES) == families()


@needs_nvrtc
@needs_tools
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("family", FAMILIES)
def test_machine_code(family, arch):
    found, wanted = sass.functions(compiling.compile_family(family, f"sm_{arch}")), FAMILIES[family]()
    assert sorted(found) == sorted(wanted)
    for name, function in found.items():
        given = wanted[name]
        for opcode in given.expected or (None,):
            wrong = sass.problems(
                function, registers=given.registers, instructions_per_mma=given.per_mma, expected=opcode
            )
            assert not wrong
        least = given.blocks if isinstance(given.blocks, int) else given.blocks[ARCHITECTURES.index(arch)]
        assert function.blocks(arch, given.threads, given.shared) >= least, name
