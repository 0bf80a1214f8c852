"""Launches a kernel of a PTX module over a grid of blocks."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

# ruff: noqa: F401 - what is imported first registers its instructions
from tests.gpu.ptx import arithmetic, bits, control, conversion, moving, tensor, warpgroup
from tests.gpu.ptx.block import Block, Place
from tests.gpu.ptx.costs import Costs as Stats
from tests.gpu.ptx.memory import GlobalMemory, Pointer
from tests.gpu.ptx.parsing import Module, Parameter, PtxError, parse

_FORMATS = {"f32": "<f", "f64": "<d", "f16": "<e"}
_LIMIT = 10_000_000


def run(
    ptx: str | bytes | Module,
    kernel: str | None,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    args: Sequence[Any],
    shared: int = 0,
    lazy: bool = True,
    buffers: Sequence[np.ndarray] = (),
) -> Stats:
    """Runs every block of a grid, one after the other, x fastest.

    Args:
        ptx: a module; parse it once (`parse`) where it runs often.
        kernel: its name; None: the only one.
        grid, block: blocks and threads, of x alone or of up to three axes.
        args: for each parameter a numpy array (changed in place), a `Pointer` into one, None (a null pointer), an int,
            a float, or the bytes of a struct.
        shared: bytes of dynamic shared memory.
        lazy: asynchronous copies arrive when they are waited for; otherwise at once.
        buffers: arrays that pointers inside of structs name (`address_of`).

    Returns:
        Instructions executed and costs, summed over the grid.

    Raises:
        PtxError: an instruction that isn't known, or that does what it must not; with the instruction.
    """
    module = ptx if isinstance(ptx, Module) else parse(ptx)
    entry = module.kernel(kernel)
    grid, block = _three(grid), _three(block)
    threads = int(np.prod(block))
    for allowed, fits in ((entry.exact_threads, threads.__eq__), (entry.most_threads, threads.__le__)):
        if allowed is not None and not fits(allowed):
            raise PtxError(f"{entry.name}: {threads} threads a block, and it is compiled for {allowed}")
    memory = GlobalMemory()
    for array in buffers:
        memory.add(array)
    parameters, places = _parameters(entry.name, entry.parameters, args, memory)
    symbols, start = entry.symbols()
    symbols |= places | {name: memory.add(data) for name, data in module.constants.items()}
    stats = Stats()
    with np.errstate(all="ignore"):
        for z in range(grid[2]):
            for y in range(grid[1]):
                for x in range(grid[0]):
                    place = Place((x, y, z), grid, block)
                    Block(entry, place, memory, start + shared, parameters, symbols, stats, lazy, _LIMIT).run()
    return stats


def _three(sizes: int | Sequence[int]) -> tuple[int, int, int]:
    given = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    x, y, z = (*given, 1, 1, 1)[:3]
    return int(x), int(y), int(z)


def _parameters(
    name: str, wanted: list[Parameter], args: Sequence[Any], memory: GlobalMemory
) -> tuple[bytes, dict[str, int]]:
    """The bytes of all parameters, and where each starts."""
    if len(args) != len(wanted):
        raise ValueError(f"{name} takes {len(wanted)} arguments, and {len(args)} are given")
    # Arguments that share memory, the same array given twice or views of one, are one buffer.
    placed: dict[tuple[int, int], int] = {}

    def place(array: np.ndarray) -> int:
        key = (array.__array_interface__["data"][0], array.nbytes)
        if key not in placed:
            placed[key] = memory.add(array)
        return placed[key]

    found, starts = b"", {}
    for number, (parameter, arg) in enumerate(zip(wanted, args, strict=True)):
        try:
            found = found.ljust(-(-len(found) // 8) * 8, b"\0")
            starts[parameter.name] = len(found)
            found += _bytes(parameter, arg, place)
        except (struct.error, OverflowError, TypeError) as error:
            given = (
                f"{name}: argument {number} is a {type(arg).__name__}, and the parameter is of type {parameter.type}"
            )
            raise TypeError(f"{given}: {error}") from None
    return found, starts


def _bytes(parameter: Parameter, arg: Any, place) -> bytes:
    if isinstance(arg, bytes):
        if len(arg) != parameter.size:
            raise TypeError(f"{len(arg)} bytes for {parameter.size}")
        return arg
    if isinstance(arg, np.ndarray | Pointer) or arg is None:
        if parameter.type not in ("u64", "b64", "s64"):
            raise TypeError("it isn't an address")
        if arg is None:
            return bytes(8)
        pointer = arg if isinstance(arg, Pointer) else Pointer(arg)
        return (place(pointer.array) + pointer.offset).to_bytes(8, "little")
    if parameter.type in _FORMATS:
        return struct.pack(_FORMATS[parameter.type], arg)
    if isinstance(arg, float | np.floating):
        if parameter.type != "b32":
            raise TypeError("it isn't a float")
        return struct.pack("<f", arg)
    return int(arg).to_bytes(parameter.size, "little", signed=arg < 0)
