"""The operators in plain torch: the oracle of the tests and the path for devices without a kernel.

Integer parts are computed exactly (float64 products of small integers), then scaled in float32 in the kernels' order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_ACTIVATIONS = {
    0: lambda y: y,
    1: torch.relu,
    2: F.gelu,
    3: lambda y: F.gelu(y, approximate="tanh"),
    4: F.silu,
    5: torch.tanh,
}


def quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`kdnative.ops.quantize_per_token`."""
    x = x.float()
    amax = x.abs().amax(dim=-1) if x.shape[-1] else x.new_zeros(x.shape[:-1])
    finite = torch.isfinite(x).all(dim=-1)
    limit = torch.full_like(amax, 127.0)  # a Python scalar over a tensor would be computed as reciprocal times scalar
    inverse = torch.where(finite & (amax >= 1e-30), limit / amax, torch.zeros_like(amax))
    scale = torch.where(finite, amax / limit, torch.full_like(amax, torch.nan))
    q = torch.round(torch.where(finite.unsqueeze(-1), x, torch.zeros_like(x)) * inverse.unsqueeze(-1))
    return q.clamp(-127, 127).to(torch.int8), scale


def linear_w8a8(x: Tensor, qweight: Tensor, scale: Tensor, bias: Tensor | None = None, activation: int = 0) -> Tensor:
    """``activation((q_x @ qweight.T) * (scale_x * scale) + bias)``; qweight int8 ``[N, K]``, scale float32 ``[N]``."""
    q, scale_x = quantize_per_token(x)
    dot = (
        q.double() @ qweight.double().t()
    ).float()  # exact below 2^24, correctly rounded like an int32 conversion above
    y = dot * (scale_x.unsqueeze(-1) * scale)
    return _finish(y, bias, activation, x.dtype)


def linear_grouped(
    x: Tensor,
    qweight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    group_size: int,
    bias: Tensor | None = None,
    activation: int = 0,
) -> Tensor:
    """Groups of ``group_size`` columns, summed in order; qweight int8 ``[N, K]``, scale and zero ``[N, G]``."""
    q, scale_x = quantize_per_token(x)
    y = torch.zeros(*x.shape[:-1], qweight.shape[0], dtype=torch.float32)
    for g in range(scale.shape[1]):
        columns = slice(g * group_size, (g + 1) * group_size)
        w = qweight[:, columns].double()
        if zero is not None:
            w = w - zero[:, g : g + 1].double()
        dot = q[..., columns].double() @ w.t()
        y = (dot * scale[:, g].double() + y.double()).float()  # a fused multiply-add but for rare ties
    return _finish(y * scale_x.unsqueeze(-1), bias, activation, x.dtype)


def linear_float(
    x: Tensor,
    qweight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    group_size: int | None,
    bias: Tensor | None = None,
    activation: int = 0,
) -> Tensor:
    """Float activations: the product in float64, rounded once; scale (and zero) ``[N]``, or ``[N, G]`` with groups."""
    n, k = qweight.shape
    groups = qweight.double().view(n, -1, group_size or k)
    if zero is not None:
        groups = groups - zero.double().view(n, -1, 1)
    weight = (groups * scale.double().view(n, -1, 1)).view(n, k)
    return _finish((x.double() @ weight.t()).float(), bias, activation, x.dtype)


def _finish(y: Tensor, bias: Tensor | None, activation: int, dtype: torch.dtype) -> Tensor:
    if bias is not None:
        y = y + bias.float()
    return _ACTIVATIONS[activation](y).to(dtype)
