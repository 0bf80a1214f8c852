"""int8 weights and int8 activations."""

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
from kdnative.ops.backends.triton.quantize import quantize_rows

__all__ = ["linear_w8a8"]


@triton.jit(do_not_specialize=["m"])
def _w8a8(
    x,
    codes,
    scale_x,
    scale,
    bias,
    residual,
    out,
    m,
    n,
    k,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    # x [m, k] and codes [n, k] int8. Both are loaded along k, and the product turns the second: loaded transposed,
    # sm_80 needs twice the registers and permutes bytes one by one.
    tile_m, tile_n = tile_of(m, n, BM, BN)
    rows = tile_m * BM + tl.arange(0, BM)
    columns = tile_n * BN + tl.arange(0, BN)
    inputs = tl.arange(0, BK)
    x += rows.to(tl.int64)[:, None] * k + inputs[None, :]
    codes += columns.to(tl.int64)[:, None] * k + inputs[None, :]
    total = tl.zeros((BM, BN), tl.int32)
    for start in range(0, k, BK):
        left = inputs < k - start
        a = tl.load(x, mask=(rows < m)[:, None] & left[None, :], other=0)
        b = tl.load(codes, mask=(columns < n)[:, None] & left[None, :], other=0)
        total = tl.dot(a, tl.trans(b), total, out_dtype=tl.int32)
        x += BK
        codes += BK
    scale_m = tl.load(scale_x + rows, mask=rows < m, other=0.0)
    scale_n = tl.load(scale + columns, mask=columns < n, other=0.0)
    y = total.to(tl.float32) * (scale_m[:, None] * scale_n[None, :])
    finish(y, rows, columns, bias, residual, out, m, n, HAS_BIAS, HAS_RESIDUAL, ACTIVATION)


def linear_w8a8(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    input_scale: Tensor | None = None,
    activation: int = 0,
    residual: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """``activation(x @ W.T + bias) + residual``, x quantized per row to int8; the bits of the CPU's kernels.

    Args:
        x: float32, bfloat16 or float16 ``[..., K]``.
        codes: int8 ``[N, K rounded up to a multiple of 16]``, zeros behind column K.
        scale: float32 ``[N]``.
        bias: float32 ``[N]`` or None.
        input_scale: float32 ``[K]``, what x is multiplied by first, or None.
        activation: a code of :data:`kdnative.ops.ACTIVATIONS`.
        residual: of the dtype of x, ``[..., N]``, or None.
        tile: None: that of the table, or what was measured.

    Returns:
        ``[..., N]`` in the dtype of x.

    Raises:
        TypeError, ValueError: a dtype, shape or device is none of these, or there are more than 2^31 - 1 tiles.
    """
    op = "linear_w8a8"
    rows = rows_of(op, x)
    (m, k), n, k_pad = rows.shape, codes.shape[0], codes.shape[-1]
    if k_pad % 16 or not k <= k_pad < k + 128:
        raise ValueError(
            f"{op}: codes have shape {list(codes.shape)} and x {list(x.shape)}: rows of codes must be as long as those "
            "of x, rounded up to a multiple of 16"
        )
    check_tensor(op, "codes", codes, torch.int8, (n, k_pad), x)
    check_tensor(op, "scale", scale, torch.float32, (n,), x)
    check_input_scale(op, input_scale, x)
    check_epilogue(op, x, n, bias, activation, residual)
    out = torch.empty(*x.shape[:-1], n, dtype=x.dtype, device=x.device)
    if m:
        quantized, scale_x = quantize_rows(rows, input_scale, k_pad)
        arguments = quantized, codes, scale_x, scale, bias, residual, out, m, n, k_pad
        launch_tiles(op, _w8a8, x, "w8a8", (m, n, k_pad), tile, arguments, bias, residual, activation)
    return out
