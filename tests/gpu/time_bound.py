"""Bounds of the time of our kernels, computed and not measured: no run can be faster than the slowest of its resources.

Published peaks of a device, a tile and what the emulator and the cubin counted give, for each tile, the time of

- memory: inputs, weights, scales and outputs once;
- the second level: what all blocks load, by the tiling;
- tensor cores: products of whole tiles, on the multiprocessor that has the most blocks;
- issue: the hot loop's instructions there, one a cycle in each of four partitions;
- banks: cycles of shared memory there.

A launch, latencies, waiting at barriers, prologues and epilogues cost nothing here, so that a real run is slower.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.gpu import kernel_table


@dataclass(frozen=True)
class Device:
    """Published peaks. Operations are those of dense int8 and fp16 products of one multiprocessor in a cycle."""

    name: str
    arch: int
    multiprocessors: int
    ghz: float
    memory: float  # bytes a second
    level2: float  # bytes a cycle
    int8: float
    fp16: float


# NVIDIA A100 and H100 Tensor Core GPU Architecture whitepapers (SXM boards, boost clock). mma.sync reaches about 75 %
# of an H100's peak, which only wgmma has (vllm-project/vllm#7174); its second level is taken to be as wide as A100's.
A100 = Device("A100 80GB", 80, 108, 1.41, 2.039e12, 5120, 4096, 2048)
H100 = Device("H100 SXM", 90, 132, 1.83, 3.35e12, 5120, 0.75 * 8192, 0.75 * 4096)


@dataclass(frozen=True)
class Scheme:
    """How a scheme moves and multiplies: bytes of its weight, and its kernels by their names."""

    kernels: str  # pattern
    tile: Callable[[kernel_table.Kernel], tuple[int, int]]
    weight_bytes: float  # of one weight, scales of groups included
    input_bytes: int
    sparse: int = 1  # products that one instruction saves
    most_rows: int = 1 << 30


def _tile_in_name(kernel: kernel_table.Kernel) -> tuple[int, int]:
    rows, columns = re.search(r"(\d+)x(\d+)", kernel.name).groups()
    return int(rows), int(columns)


def _w4a16_tile(kernel: kernel_table.Kernel) -> tuple[int, int]:
    return (8, 32) if kernel.name.endswith("gemv") else (int(kernel.name.rpartition("_")[2]), 128)


def _sparse24_tile(kernel: kernel_table.Kernel) -> tuple[int, int]:
    return {"small": (16, 32), "medium": (64, 64), "large": (128, 128)}[kernel.name.rpartition("_")[2]]


SCHEMES = {
    "w8a8": Scheme(r"w8a8_\d+x\d+(_short)?", _tile_in_name, 1, 1),
    "w4a16": Scheme(r"w4a16_(gemv|gemm_\d+)", _w4a16_tile, 0.5 + 4 / 128, 2),  # groups of 128, fp32 scales
    "sparse24": Scheme(r"sparse24_\w+", _sparse24_tile, 5 / 8, 1, sparse=2),
}


@dataclass(frozen=True)
class Bound:
    """Microseconds, and the resource that they are for."""

    microseconds: float
    resource: str
    kernel: str


def bound(scheme: str, device: Device, m: int, n: int, k: int) -> Bound:
    """The least time of y [m, n] = x [m, k] w [n, k]^T by any kernel of a scheme, quantization of x included."""
    found = [_of_kernel(scheme, kernel, device, m, n, k) for kernel in _kernels(scheme, m)]
    return min(found, key=lambda one: one.microseconds)


def _kernels(scheme: str, m: int) -> Iterator[kernel_table.Kernel]:
    for kernel in kernel_table.kernels(scheme).values():
        if re.fullmatch(SCHEMES[scheme].kernels, kernel.name) and not (kernel.name.endswith("gemv") and m > 8):
            yield kernel


def _of_kernel(scheme: str, kernel: kernel_table.Kernel, device: Device, m: int, n: int, k: int) -> Bound:
    how, clock = SCHEMES[scheme], device.ghz * 1e9
    rows, columns = how.tile(kernel)
    blocks = -(-m // rows) * -(-n // columns)
    busiest = -(-blocks // device.multiprocessors)
    # Kernels that share the inputs of a tile between blocks can use all multiprocessors.
    share = min(1.0, blocks / device.multiprocessors) if scheme == "w4a16" else 1.0
    weight, inputs = how.weight_bytes * n * k, how.input_bytes * m * k
    seconds = {"memory": (weight + inputs + 2 * m * n) / device.memory}
    loaded = -(-m // rows) * weight + -(-n // columns) * inputs
    seconds["level 2"] = loaded / (device.level2 * clock)
    operations = 2 * rows * columns * k / how.sparse
    peak = device.int8 if how.input_bytes == 1 else device.fp16
    counted, each = kernel.counted, kernel.instructions_per_mma().get(device.arch)
    if not kernel.name.endswith("gemv"):  # whose products are few, and whose warps share none
        seconds["tensor cores"] = share * busiest * operations / peak / clock
        of_one = 2 * 16 * 8 * (32 if how.input_bytes == 1 else 16)  # an mma; a sparse one does twice that
        if each:
            seconds["issue"] = share * busiest * operations / of_one * each / 4 / clock
        if counted:
            seconds["banks"] = share * busiest * counted.loop_cycles * k / counted.case[2] / clock
    extra = (2 + 1) * m * k / device.memory if how.input_bytes == 1 else 0  # fp16 in, int8 out, before the product
    resource = max(seconds, key=seconds.__getitem__)
    return Bound(1e6 * (seconds[resource] + extra), resource, kernel.name)


# Borrowed figures, which no command here gives again: microseconds of one H100 80GB HBM3, torch 2.11 and CUDA 13.0,
# CUDA graphs replayed, weights rotated past the second level, of libraries as of November 2026. fp16 of torch,
# the best that quantizes activations of int8 ones (gemlite, humming), the best 4-bit one (tinygemm, Marlin, gemlite,
# humming), cuSPARSELt's product alone.
PEERS = {
    (1, 4096, 4096): (16.6, 10.8, 7.0, None),
    (16, 4096, 4096): (17.1, 11.7, 10.3, 8.4),
    (64, 4096, 4096): (15.5, 12.2, 13.1, 8.1),
    (256, 4096, 4096): (19.3, 17.8, 23.3, 18.8),
    (2048, 4096, 4096): (93.8, 80.9, 107, 74.5),
    (1, 14336, 4096): (44.7, 23.0, 16.7, None),
    (64, 14336, 4096): (47.2, 28.6, 24.9, 17.7),
    (2048, 14336, 4096): (327, 240, 337, 226),
    (1, 4096, 14336): (45.5, 24.2, 17.3, None),
    (2048, 4096, 14336): (315, 244, 329, 233),
    (1, 768, 768): (3.7, 4.2, 2.2, None),
    (64, 768, 768): (4.1, 5.7, 5.6, 4.4),
    (2048, 768, 768): (6.6, 10.1, 16.8, 10.6),
}
_OF = {"w8a8": 1, "w4a16": 2, "sparse24": 3}


def table(scheme: str) -> str:
    """Bounds of a scheme beside what was measured of others, as Markdown."""
    head = ["m", "n x k", "A100", "H100", "by", "kernel", "best peer", "fp16"]
    rows = [head, ["---"] * len(head)]
    for (m, n, k), measured in PEERS.items():
        old, new = (bound(scheme, device, m, n, k) for device in (A100, H100))
        peer = measured[_OF[scheme]]
        row = [str(m), f"{n} x {k}", f"{old.microseconds:.1f}", f"{new.microseconds:.1f}", new.resource]
        rows.append([*row, f"`{new.kernel}`", "" if peer is None else f"{peer:g}", f"{measured[0]:g}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
