"""Weights of which whole blocks are zero: products with the other blocks alone (Gray et al. 2017)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdnative.ops.backends.triton.arguments import (
    capability,
    check_epilogue,
    check_grid,
    check_input_scale,
    check_tensor,
    device_name,
    on_device_of,
    rows_of,
)
from kdnative.ops.backends.triton.epilogue import finish, tile_of
from kdnative.ops.backends.triton.measured import configuration
from kdnative.ops.backends.triton.quantize import quantize_rows

__all__ = ["BLOCKS", "linear_blocks"]

BLOCKS = (16, 32, 64)
"""Outputs and inputs of a block."""


@triton.jit(do_not_specialize=["m"])
def _blocks(
    x,
    starts,
    places,
    values,
    scale_x,
    scale,
    bias,
    residual,
    out,
    m,
    n,
    stride,
    INTEGER: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SIZE: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    # A program has the outputs of one row of blocks. It takes BK inputs at a time, which are BK / SIZE blocks: where
    # they lie in x is read from `places`. Runs of 16 inputs lie side by side, and begin at a multiple of 16: x has rows
    # of whole blocks.
    tile_m, tile_n = tile_of(m, n, BM, SIZE)
    rows = tile_m * BM + tl.arange(0, BM)
    columns = tile_n * SIZE + tl.arange(0, SIZE)
    inputs = tl.arange(0, BK)
    first, last = tl.load(starts + tile_n), tl.load(starts + tile_n + 1)
    kind: tl.constexpr = tl.int32 if INTEGER else tl.float32
    total = tl.zeros((BM, SIZE), kind)
    x += rows.to(tl.int64)[:, None] * stride
    for block in range(first, last, BK // SIZE):
        mine = block + inputs // SIZE
        there = mine < last
        place = tl.load(places + mine, mask=there, other=0)
        at = tl.max_contiguous(tl.multiple_of(place * SIZE + inputs % SIZE, 16), 16)
        a = tl.load(x + at[None, :], mask=(rows < m)[:, None] & there[None, :], other=0)
        element = mine.to(tl.int64) * (SIZE * SIZE) + inputs % SIZE
        element = tl.max_contiguous(tl.multiple_of(element, 16), 16)
        b = tl.load(values + tl.arange(0, SIZE)[:, None] * SIZE + element[None, :], mask=there[None, :], other=0)
        total = tl.dot(a.to(b.dtype), tl.trans(b), total, out_dtype=kind)
    y = total.to(tl.float32)
    if INTEGER:
        scale_m = tl.load(scale_x + rows, mask=rows < m, other=0.0)
        y *= scale_m[:, None] * tl.load(scale + columns, mask=columns < n, other=0.0)[None, :]
    finish(y, rows, columns, bias, residual, out, m, n, HAS_BIAS, HAS_RESIDUAL, ACTIVATION)


def linear_blocks(
    x: Tensor,
    starts: Tensor,
    places: Tensor,
    values: Tensor,
    out_features: int,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    input_scale: Tensor | None = None,
    activation: int = 0,
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(x @ W.T + bias) + residual`` for a weight ``[N, K]`` in square blocks, zeros where there is none.

    Args:
        x: float32, bfloat16 or float16 ``[..., K]``. With int8 values it is quantized per row, and the result has the
            bits of ``linear_w8a8`` with the same weight. Else it is rounded to the dtype of the values.
        starts: int32 ``[ceil(N / B) + 1]``: blocks ``starts[i]`` to ``starts[i + 1]`` have outputs B i to B i + B - 1.
        places: int32 ``[blocks]``: block j has inputs B places[j] to B places[j] + B - 1.
        values: int8, float16 or bfloat16 ``[blocks, B, B]``, outputs first; B is one of :data:`BLOCKS`. What is beyond
            N or K is zero.
        out_features: N.
        scale: float32 ``[N]`` with int8 values, else None.
        bias, input_scale, activation, residual: see :func:`kdnative.ops.backends.triton.w8a8.linear_w8a8`. Input scales
            go with int8 values alone.

    Returns:
        ``[..., N]`` in the dtype of x.

    Raises:
        TypeError, ValueError: a dtype, shape or device is none of these, or there are more than 2^31 - 1 tiles.
    """
    op = "linear_blocks"
    rows = rows_of(op, x)
    (m, k), n, integer = rows.shape, out_features, values.dtype == torch.int8
    size = values.shape[-1] if values.dim() == 3 else 0
    if size not in BLOCKS:
        raise ValueError(
            f"{op}: values have shape {list(values.shape)}; it must be [blocks, B, B], where B is one of "
            f"{', '.join(map(str, BLOCKS))}"
        )
    if not integer and values.dtype not in (torch.float16, torch.bfloat16):
        raise TypeError(f"{op}: values are {values.dtype}; int8, float16 and bfloat16 are allowed")
    if (scale is not None) != integer or (input_scale is not None and not integer):
        raise ValueError(f"{op}: int8 values need a scale, others have neither that nor input scales")
    check_tensor(op, "values", values, values.dtype, (values.shape[0], size, size), x)
    check_tensor(op, "starts", starts, torch.int32, (-(-n // size) + 1,), x)
    check_tensor(op, "places", places, torch.int32, (values.shape[0],), x)
    if scale is not None:
        check_tensor(op, "scale", scale, torch.float32, (n,), x)
    check_input_scale(op, input_scale, x)
    check_epilogue(op, x, n, bias, activation, residual)
    out = torch.empty(*x.shape[:-1], n, dtype=x.dtype, device=x.device)
    if m:
        scale_x = None
        if integer:
            rows, scale_x = quantize_rows(rows, input_scale, size)
        elif k % size:
            rows = torch.nn.functional.pad(rows, (0, -k % size))
        with on_device_of(x):
            tile = configuration("blocks-int8" if integer else "blocks-float", m, n, k, capability(), device_name(x))
            programs = triton.cdiv(m, tile.m) * triton.cdiv(n, size)
            check_grid(op, programs, x)
            _blocks[(programs,)](
                rows,
                starts,
                places,
                values,
                scale_x,
                scale,
                bias,
                residual,
                out,
                m,
                n,
                rows.stride(0),
                INTEGER=integer,
                HAS_BIAS=bias is not None,
                HAS_RESIDUAL=residual is not None,
                ACTIVATION=activation,
                SIZE=size,
                BM=tile.m,
                BK=max(size, tile.k),
                num_warps=tile.warps,
                num_stages=tile.stages,
                enable_fp_fusion=False,
            )
    return out
