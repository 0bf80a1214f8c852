"""Values of one computation with the gradients of another (straight-through estimator, Bengio et al. 2013)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdnative.formats.convnet.graph import Range

__all__ = ["rounded", "straight_through"]


def straight_through(exact: Tensor, plain: Tensor) -> Tensor:
    """The first tensor's values, the second's gradients; of one shape, in the first one's type."""
    return _StraightThrough.apply(exact, plain)


def rounded(values: Tensor, codes: Range) -> Tensor:
    """Values as the codes of a map hold them.

    The gradient passes, but for values that are more than half a step outside of what codes reach: these do not move
    with what they are made of.
    """
    return _Rounded.apply(values, codes)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exact: Tensor, plain: Tensor) -> Tensor:
        ctx.plain_type = plain.dtype
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad.to(ctx.plain_type)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, codes: Range) -> Tensor:
        q = (values / codes.scale).add_(codes.zero_point).round_()
        ctx.save_for_backward((q >= 0) & (q <= 255))
        return q.clamp_(0, 255).sub_(codes.zero_point).mul_(codes.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return grad * inside, None
