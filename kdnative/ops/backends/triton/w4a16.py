"""4-bit weights in groups, and activations in floating point.

Factors are integers: each group's products with ``u - zero``, which float16 and bfloat16 hold exactly, are summed in
float32, and the sum is multiplied by the group's float32 scale, as the CPU's kernels do. So the weights are those of
the scheme, not rounded once more to 16 bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdnative.ops.backends.triton.arguments import (
    check_epilogue,
    check_input_scale,
    check_tensor,
    rows_of,
)
from kdnative.ops.backends.triton.configurations import Tile
from kdnative.ops.backends.triton.epilogue import finish, tile_of
from kdnative.ops.backends.triton.launch import launch_tiles

__all__ = ["GROUPS", "PAIR", "linear_w4a16"]

GROUPS = (32, 64, 128)
PAIR = 64
"""Inputs in 32 bytes of codes: byte i has the code of input i in its low half, that of input 32 + i in its high one."""

_HALF = tl.constexpr(PAIR // 2)


@triton.jit
def _factors(u, zero, DTYPE: tl.constexpr):
    """u - zero, exactly, without a conversion: bits of u behind those of a power of two, minus that power and zero."""
    bits = u.to(tl.uint16)
    if DTYPE == tl.float16:
        factors = (bits | 0x6400).to(tl.float16, bitcast=True) - (zero + 1024.0).to(tl.float16)  # 1024 + u
    else:
        factors = (bits | 0x4300).to(tl.bfloat16, bitcast=True) - (zero + 128.0).to(tl.bfloat16)  # 128 + u
    return factors


@triton.jit
def _activations(x, input_scale, inputs, rows, last, DTYPE: tl.constexpr, HAS_INPUT_SCALE: tl.constexpr):
    """Some inputs of the rows as factors; 0 for inputs from ``last`` on."""
    inside = inputs < last
    a = tl.load(x + inputs[None, :], mask=rows[:, None] & inside[None, :], other=0.0)
    if HAS_INPUT_SCALE:
        a = a.to(tl.float32) * tl.load(input_scale + inputs, mask=inside, other=0.0)[None, :]
    return a.to(DTYPE)


@triton.jit
def _zeros(zero, row, columns, n, inside, HAS_ZERO: tl.constexpr):
    """Zero points of a group, float32: 8 where there are none, as codes u are q + 8."""
    if HAS_ZERO:
        points = tl.load(zero + row * n + columns, mask=inside, other=8).to(tl.float32)
    else:
        points = tl.full(columns.shape, 8.0, tl.float32)
    return points


@triton.jit(do_not_specialize=["m"])
def _w4a16(
    x,
    codes,
    scale,
    zero,
    input_scale,
    bias,
    residual,
    out,
    m,
    n,
    k,
    stride,
    GROUP: tl.constexpr,
    DTYPE: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    HAS_INPUT_SCALE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    # x [m, k]; codes uint8 [n, k_pad / 2] as PAIR says; scale float32 and zero uint8 [k / GROUP, n], so that those of
    # a tile's outputs lie side by side. An iteration takes BK inputs: a group, or two of 32. What is loaded at a time
    # is 32 wide for every group: a thread then has 16 bytes of a row of x, and neighbours have those beside them.
    tile_m, tile_n = tile_of(m, n, BM, BN)
    rows = tile_m * BM + tl.arange(0, BM)
    columns = tile_n * BN + tl.arange(0, BN)
    pairs = tl.arange(0, _HALF)
    x += rows.to(tl.int64)[:, None] * stride
    codes += columns.to(tl.int64)[:, None] * (tl.cdiv(k, 2 * _HALF) * _HALF) + pairs[None, :]
    present, outputs = rows < m, columns < n
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, k, BK):
        group = start // GROUP
        z = _zeros(zero, group, columns, n, outputs, HAS_ZERO)
        step = tl.load(scale + group * n + columns, mask=outputs, other=0.0)
        part = tl.zeros((BM, BN), tl.float32)
        for first in tl.static_range(0, BK, 2 * _HALF):
            inputs = start + first + pairs
            packed = tl.load(codes, mask=outputs[:, None], other=0)
            codes += _HALF
            b = _factors(packed & 15, z[:, None], DTYPE)
            a = _activations(x, input_scale, inputs, present, k, DTYPE, HAS_INPUT_SCALE)
            part = tl.dot(a, tl.trans(b), part)
            if GROUP < BK:  # the high halves are a group of their own
                total = tl.fma(part, step[None, :], total)
                part = tl.zeros((BM, BN), tl.float32)
                there = outputs & ((group + 1) * GROUP < k)
                z = _zeros(zero, group + 1, columns, n, there, HAS_ZERO)
                step = tl.load(scale + (group + 1) * n + columns, mask=there, other=0.0)
            b = _factors(packed >> 4, z[:, None], DTYPE)
            a = _activations(x, input_scale, inputs + _HALF, present, k, DTYPE, HAS_INPUT_SCALE)
            part = tl.dot(a, tl.trans(b), part)
        total = tl.fma(part, step[None, :], total)
    finish(total, rows, columns, bias, residual, out, m, n, HAS_BIAS, HAS_RESIDUAL, ACTIVATION)


def linear_w4a16(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    bias: Tensor | None = None,
    input_scale: Tensor | None = None,
    activation: int = 0,
    residual: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """``activation((x * input_scale) @ W.T + bias) + residual``, where ``W = (u - zero) * scale``.

    Args:
        x: ``[..., K]``. float16 and bfloat16 are the factors as they are; float32 is rounded to bfloat16.
        codes: uint8 ``[N, 32 * ceil(K / 64)]``, two codes u, 0 to 15, a byte, see :data:`PAIR`.
        scale: float32 ``[K / G, N]``, G is 32, 64 or 128.
        zero: uint8 ``[K / G, N]``, 0 to 15, or None: 8.
        bias, input_scale, activation, residual, tile: see :func:`kdnative.ops.backends.triton.w8a8.linear_w8a8`. The
            product with input_scale is rounded to the type of the factors.

    Returns:
        ``[..., N]`` in the dtype of x. Sums are float32.

    Raises:
        TypeError, ValueError: a dtype, shape or device is none of these, or there are more than 2^31 - 1 tiles.
    """
    op = "linear_w4a16"
    rows = rows_of(op, x)
    (m, k), n = rows.shape, codes.shape[0]
    groups = scale.shape[0] if scale.dim() == 2 else 0
    group = k // groups if groups else 0
    if group not in GROUPS or k % group or groups * group != k:
        raise ValueError(
            f"{op}: scale has shape {list(scale.shape)} and x {list(x.shape)}: it must be [K / G, N], where G is one "
            f"of {', '.join(map(str, GROUPS))} and divides K"
        )
    check_tensor(op, "codes", codes, torch.uint8, (n, -(-k // PAIR) * PAIR // 2), x)
    check_tensor(op, "scale", scale, torch.float32, (groups, n), x)
    if zero is not None:
        check_tensor(op, "zero", zero, torch.uint8, (groups, n), x)
    check_input_scale(op, input_scale, x)
    check_epilogue(op, x, n, bias, activation, residual)
    out = torch.empty(*x.shape[:-1], n, dtype=x.dtype, device=x.device)
    if m:
        launch_tiles(
            op,
            _w4a16,
            x,
            f"w4a16-g{group}",
            (m, n, k),
            tile,
            (rows, codes, scale, zero, input_scale, bias, residual, out, m, n, k, rows.stride(0)),
            bias,
            residual,
            activation,
            BK=max(group, PAIR),
            GROUP=group,
            DTYPE=tl.float16 if x.dtype == torch.float16 else tl.bfloat16,
            HAS_ZERO=zero is not None,
            HAS_INPUT_SCALE=input_scale is not None,
        )
    return out
