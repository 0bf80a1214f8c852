"""Dropout on the CPU with cheap random numbers.

torch draws a number for each element, on one thread, which a small encoder notices in every step. Here one draw of 64
bits serves four elements, which are compared with a threshold of 16 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["FastDropout", "dropout", "fast_dropout"]

_LEVELS = 1 << 16


def dropout(x: Tensor, p: float) -> Tensor:
    """Zeroes each element with probability ``p`` and divides the others by ``1 - p`` (Srivastava et al. 2014).

    ``p`` is rounded to a multiple of 2^-16, also in the divisor, so that the mean is kept. Random bits come from
    torch's global generator: ``torch.manual_seed`` makes results repeatable, but others than those of torch's dropout.

    Args:
        x: floating point, any shape, on the CPU.
        p: within [0, 1].
    """
    dropped = round(p * _LEVELS)
    if dropped == 0:
        return x
    if dropped == _LEVELS:
        return x * 0.0
    bits = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    drop = bits.view(torch.int16)[: x.numel()].view(x.shape) < dropped - _LEVELS // 2
    return (x * (_LEVELS / (_LEVELS - dropped))).masked_fill_(drop, 0.0)


class FastDropout(nn.Dropout):
    """``nn.Dropout`` that uses `dropout` for tensors on the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.inplace or not input.is_cpu:
            return super().forward(input)
        return dropout(input, self.p)


@contextmanager
def fast_dropout(model: nn.Module) -> Iterator[None]:
    """Within it every ``nn.Dropout`` of a model is a `FastDropout`, unless the model is compiled.

    Attention that drops out within one function of torch (``scaled_dot_product_attention``) goes on as before.
    """
    compiled = any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules())
    swapped = [] if compiled else [module for module in model.modules() if type(module) is nn.Dropout]
    for module in swapped:
        module.__class__ = FastDropout
    try:
        yield
    finally:
        for module in swapped:
            module.__class__ = nn.Dropout
