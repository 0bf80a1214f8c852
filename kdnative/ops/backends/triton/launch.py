"""Starts a kernel of a product ``[m, n]``, once for each tile."""

from __future__ import annotations

from typing import Any

import triton
from torch import Tensor

from kdnative.ops.backends.triton.arguments import capability, check_grid, device_name, on_device_of
from kdnative.ops.backends.triton.configurations import Tile
from kdnative.ops.backends.triton.measured import configuration

__all__ = ["launch_tiles"]


def launch_tiles(
    op: str,
    kernel: Any,
    x: Tensor,
    family: str,
    shape: tuple[int, int, int],
    tile: Tile | None,
    arguments: tuple[Any, ...],
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    **constants: Any,
) -> None:
    """Launch on the device of ``x``.

    Args:
        family: whose tiles are taken from the table, or from what was measured, if none is given.
        shape: m, n and k of the product.
        arguments: of the kernel, up to the constants that every product has.
        bias, residual, activation: see :func:`kdnative.ops.backends.triton.w8a8.linear_w8a8`.
        constants: the kernel's own.

    Raises:
        ValueError: there are more than 2^31 - 1 tiles.
    """
    m, n, k = shape
    with on_device_of(x):
        tile = tile or configuration(family, m, n, k, capability(), device_name(x))
        programs = triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n)
        check_grid(op, programs, x)
        kernel[(programs,)](
            *arguments,
            HAS_BIAS=bias is not None,
            HAS_RESIDUAL=residual is not None,
            ACTIVATION=activation,
            BM=tile.m,
            BN=tile.n,
            num_warps=tile.warps,
            num_stages=tile.stages,
            enable_fp_fusion=False,
            **({"BK": tile.k} | constants),
        )
