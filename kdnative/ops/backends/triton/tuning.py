"""Measures tiles on a GPU and remembers the fastest ones: ``python -m kdnative.ops.backends.triton.tuning``.

    python -m kdnative.ops.backends.triton.tuning --shapes 4096x4096 11008x4096 --rows 1 16 64 256 2048

Each shape is ``outputs x inputs``. What was found is used from the next start of a process on.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from kdnative.ops.backends.triton.arguments import capability, device_name, on_device_of, padded_inputs
from kdnative.ops.backends.triton.configurations import SHIPPED, Tile, candidates
from kdnative.ops.backends.triton.measured import save, shape_class
from kdnative.ops.backends.triton.w4a16 import PAIR, linear_w4a16
from kdnative.ops.backends.triton.w8a8 import linear_w8a8

__all__ = ["KERNELS", "on_gpu", "tune"]

KERNELS = tuple(name for name in SHIPPED if name.startswith(("w8a8", "w4a16")))
"""Those that can be measured. Blocks have no tiles to choose from."""

_ROUNDS = 20
_FLUSHED = 256 * 2**20  # bytes, more than any second-level cache


def tune(
    kernels: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    rows: Sequence[int],
    device: torch.device | str = "cuda",
    measure: Callable[[Callable[[], object]], float] | None = None,
) -> dict[tuple[str, str], Tile]:
    """Measures every candidate for every product, and writes the fastest ones into the user's cache.

    Of several products of one class of shapes the last one counts.

    Args:
        kernels: of :data:`KERNELS`.
        shapes: outputs and inputs of weights; groups of 4-bit weights must divide the inputs.
        rows: of inputs.
        device: of the products.
        measure: what gives the seconds of a call; None: :func:`on_gpu`.

    Returns:
        The fastest tile by kernel and class of shapes.

    Raises:
        ValueError: a kernel is unknown, or a group does not divide the inputs.
    """
    for kernel in kernels:
        if kernel not in KERNELS:
            raise ValueError(f"kernel {kernel!r} can't be measured; allowed are {', '.join(KERNELS)}")
    probe = torch.empty(0, device=device)
    measured, measure = {}, measure or on_gpu
    with on_device_of(probe):
        capable = capability()
        for kernel, (n, k), m in itertools.product(kernels, shapes, rows):
            run = _product(kernel, m, n, k, probe)
            times = {tile: measure(partial(run, tile)) for tile in candidates(kernel, capable)}
            measured[kernel, shape_class(m, n, k)] = min(times, key=lambda tile: times[tile])
    save(device_name(probe), capable, measured)
    return measured


def on_gpu(run: Callable[[], object]) -> float:
    """Seconds of a call on the current GPU: the median of some, with nothing of the last one in the cache.

    A tile that the device has no room for takes forever.
    """
    from triton.runtime.errors import OutOfResources

    cold = torch.empty(_FLUSHED, dtype=torch.uint8, device="cuda")
    times: list[float] = []
    try:
        run()
    except OutOfResources:
        return float("inf")
    for _ in range(_ROUNDS):
        cold.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return sorted(times)[_ROUNDS // 2]


def _product(kernel: str, m: int, n: int, k: int, like: Tensor) -> Callable[[Tile], Tensor]:
    """A product of random numbers as a function of the tile."""
    device = like.device
    if kernel == "w8a8":
        x = torch.randn(m, k, device=device, dtype=torch.bfloat16)
        codes = torch.randint(-127, 128, (n, padded_inputs(k, 128)), device=device, dtype=torch.int8)
        codes[:, k:] = 0
        scale = torch.rand(n, device=device)
        return lambda tile: linear_w8a8(x, codes, scale, tile=tile)
    group = int(kernel.rpartition("-g")[2])
    if k % group:
        raise ValueError(f"kernel {kernel} can't be measured with {k} inputs, which are no multiple of {group}")
    x = torch.randn(m, k, device=device, dtype=torch.bfloat16)
    codes = torch.randint(0, 256, (n, padded_inputs(k, PAIR) // 2), device=device, dtype=torch.uint8)
    scale = torch.rand(k // group, n, device=device)
    return lambda tile: linear_w4a16(x, codes, scale, tile=tile)


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m kdnative.ops.backends.triton.tuning", description=__doc__)
    parser.add_argument("--shapes", nargs="+", required=True, metavar="NxK", help="outputs x inputs, as in 4096x4096")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 64, 256, 2048], metavar="M")
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS), choices=KERNELS)
    given = parser.parse_args(arguments)
    try:
        shapes = [(int(n), int(k)) for n, k in (shape.lower().split("x") for shape in given.shapes)]
    except ValueError:
        parser.error(f"--shapes {' '.join(given.shapes)}: each is outputs x inputs, as in 4096x4096")
    if not torch.cuda.is_available():
        parser.error("there is no GPU to measure on")
    for (kernel, shape), tile in tune(given.kernels, shapes, given.rows).items():
        print(f"{kernel}: {shape}: {tile}")


if __name__ == "__main__":
    _main()
