"""Layer normalization (Ba et al. 2016) or its form without means (Zhang and Sennrich 2019), and int8 codes of the
result, one program a row: what a linear reads is never written in floating point."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdnative.ops.backends.triton.arguments import (
    check_grid,
    check_input_scale,
    check_tensor,
    on_device_of,
    padded_inputs,
    rows_of,
)
from kdnative.ops.backends.triton.rounding import codes_of, magnitude_bits, steps_of

__all__ = ["MOST_INPUTS", "layer_norm_quantize"]

MOST_INPUTS = 16384
"""A row stays in registers between the passes over it."""


@triton.jit
def _layer_norm_quantize(
    x,
    residual,
    total,
    weight,
    bias,
    input_scale,
    codes,
    scale,
    k,
    k_pad,
    stride,
    eps,
    CENTRED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_INPUT_SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < k
    v = tl.load(x + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        v += tl.load(residual + row * k + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + row * k + at, v.to(total.dtype.element_ty), mask=inside)
        v = v.to(total.dtype.element_ty).to(tl.float32)  # what the next layer reads is what is normalized
    if CENTRED:
        v = tl.where(inside, v - tl.div_rn(tl.sum(v, 0), k.to(tl.float32)), 0.0)
    variance = tl.div_rn(tl.sum(v * v, 0), k.to(tl.float32))
    v *= tl.div_rn(1.0, tl.sqrt_rn(variance + eps))
    v *= tl.load(weight + at, mask=inside, other=0.0)
    if HAS_BIAS:
        v += tl.load(bias + at, mask=inside, other=0.0)
    if HAS_INPUT_SCALE:
        v *= tl.load(input_scale + at, mask=inside, other=0.0)
    finite, inverse, step = steps_of(tl.max(magnitude_bits(v), 0))
    tl.store(scale + row, step)
    tl.store(codes + row * k_pad + at, codes_of(v, finite, inverse), mask=at < k_pad)


def layer_norm_quantize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    input_scale: Tensor | None = None,
    centred: bool = True,
    multiple: int = 16,
) -> tuple[Tensor, Tensor, Tensor]:
    """int8 codes of ``layer_norm(x + residual) * input_scale``, quantized per row.

    The operator ``norm_quantize`` has no residual: that is for encoders on GPUs.

    Args:
        x: float32, bfloat16 or float16 ``[M, K]``, K at most :data:`MOST_INPUTS`.
        weight, bias: float32 ``[K]``; bias may be None.
        residual: of the dtype and shape of x, added first, or None.
        input_scale: float32 ``[K]`` or None.
        centred: whether the mean is subtracted; without, it is RMS normalization.
        multiple: of this, the rows of codes are padded with zeros.

    Returns:
        Codes int8 ``[M, K rounded up]``, their scale, float32 ``[M]``, and ``x + residual`` in the dtype of x, which is
        x itself without a residual. Mean and variance are float32 and found in two passes; codes differ from those of
        exact arithmetic by one step at most.

    Raises:
        TypeError, ValueError: see above; or there are more than 2^31 - 1 rows.
    """
    op = "layer_norm_quantize"
    x = rows_of(op, x)
    m, k = x.shape
    if k > MOST_INPUTS:
        raise ValueError(f"{op}: x has shape {list(x.shape)}; a row must have at most {MOST_INPUTS} inputs")
    check_tensor(op, "weight", weight, torch.float32, (k,), x)
    if bias is not None:
        check_tensor(op, "bias", bias, torch.float32, (k,), x)
    if residual is not None:
        check_tensor(op, "residual", residual, x.dtype, (m, k), x)
    check_input_scale(op, input_scale, x)
    check_grid(op, m, x)
    k_pad = padded_inputs(k, multiple)
    codes = torch.empty(m, k_pad, dtype=torch.int8, device=x.device)
    scale = torch.empty(m, dtype=torch.float32, device=x.device)
    total = x if residual is None else torch.empty(m, k, dtype=x.dtype, device=x.device)
    if m:
        block = max(triton.next_power_of_2(k_pad), 128)
        with on_device_of(x):
            _layer_norm_quantize[(m,)](
                x,
                residual,
                total,
                weight,
                bias,
                input_scale,
                codes,
                scale,
                k,
                k_pad,
                x.stride(0),
                eps,
                CENTRED=centred,
                HAS_RESIDUAL=residual is not None,
                HAS_BIAS=bias is not None,
                HAS_INPUT_SCALE=input_scale is not None,
                BLOCK=block,
                num_warps=max(1, block // 512),
                enable_fp_fusion=False,
            )
    return codes, scale, total
