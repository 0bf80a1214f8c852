"""Quantization of rows to int8, one program a row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdnative.ops.backends.triton.arguments import (
    check_grid,
    check_input_scale,
    on_device_of,
    padded_inputs,
    rows_of,
)
from kdnative.ops.backends.triton.rounding import codes_of, magnitude_bits, steps_of

__all__ = ["quantize_rows"]


@triton.jit
def _quantize(x, input_scale, codes, scale, k, k_pad, stride, HAS_INPUT_SCALE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * stride
    codes += row * k_pad
    top = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, k, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = tl.load(x + at, mask=at < k, other=0.0).to(tl.float32)
        if HAS_INPUT_SCALE:
            v *= tl.load(input_scale + at, mask=at < k, other=0.0)
        top = tl.maximum(top, magnitude_bits(v))
    finite, inverse, step = steps_of(tl.max(top, 0))
    tl.store(scale + row, step)
    for start in range(0, k_pad, BLOCK):  # the row is near by now
        at = start + tl.arange(0, BLOCK)
        v = tl.load(x + at, mask=at < k, other=0.0).to(tl.float32)
        if HAS_INPUT_SCALE:
            v *= tl.load(input_scale + at, mask=at < k, other=0.0)
        tl.store(codes + at, codes_of(v, finite, inverse), mask=at < k_pad)


def quantize_rows(x: Tensor, input_scale: Tensor | None = None, multiple: int = 16) -> tuple[Tensor, Tensor]:
    """Dynamic symmetric int8 of each row, with the bits of the CPU's kernels.

    Args:
        x: float32, bfloat16 or float16 ``[M, K]``.
        input_scale: float32 ``[K]``, what x is multiplied by first, or None.
        multiple: of this, the rows of codes are padded with zeros.

    Returns:
        Codes int8 ``[M, K rounded up]``, and the scale, float32 ``[M]``; NaN for rows that hold NaN or infinity.

    Raises:
        TypeError, ValueError: see above; or there are more than 2^31 - 1 rows.
    """
    x = rows_of("quantize_rows", x)
    m, k = x.shape
    check_input_scale("quantize_rows", input_scale, x)
    check_grid("quantize_rows", m, x)
    k_pad = padded_inputs(k, multiple)
    codes = torch.empty(m, k_pad, dtype=torch.int8, device=x.device)
    scale = torch.empty(m, dtype=torch.float32, device=x.device)
    if m:
        block = min(max(triton.next_power_of_2(k), 128), 4096)
        with on_device_of(x):
            _quantize[(m,)](
                x,
                input_scale,
                codes,
                scale,
                k,
                k_pad,
                x.stride(0),
                HAS_INPUT_SCALE=input_scale is not None,
                BLOCK=block,
                num_warps=max(1, block // 256),  # 16 bytes of bfloat16 for each thread
                enable_fp_fusion=False,
            )
    return codes, scale
