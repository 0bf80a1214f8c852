"""Ternary weights: -1, 0 or 1 times a step, stored as codes of 2 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.quantize import rtn

__all__ = ["STEPS", "refusal", "ternary_weight"]

STEPS = ("channel", "group")

_THRESHOLD = 0.7  # of the mean magnitude


def ternary_weight(weight: Tensor, scheme: Scheme | str = "w2a8-g32", step: str = "channel") -> QuantizedWeight:
    """Ternary weight networks (Li, Zhang and Liu 2016): ``code = sign(w)`` where ``|w| > 0.7 mean|w|``, else 0.

    The step is the mean magnitude of the weights that are not 0, which minimises the squared error for these codes; the
    threshold is nearly the best one for weights that are normal or uniform (sections 2.2 and 2.3 there).

    Args:
        weight: [N, K], fp32, bf16, fp16 or fp64 (computed in fp32); finite.
        scheme: of 2 bits with groups and without zero points, such as "w2a8-g32".
        step: "channel": all groups of an output share mean, threshold and step. "group": each has its own.

    Returns:
        Codes -1, 0 and 1; scale fp32 [N, G]. Channels or groups of zeros have scale 1.

    Raises:
        ValueError: NaN or infinite weights, another scheme, an unknown `step`.
    """
    scheme = Scheme.parse(scheme)
    if why := refusal(scheme, step):
        raise ValueError(why)
    w = rtn.checked_matrix(weight, "weight")
    groups = rtn.grouped(w, scheme.group_size)
    sizes = groups.abs()
    over = (1, 2) if step == "channel" else (2,)
    mean = sizes.mean(over, keepdim=True) if groups.numel() else sizes.sum(over, keepdim=True)
    kept = sizes > _THRESHOLD * mean
    scale = (sizes * kept).sum(over, keepdim=True) / kept.sum(over, keepdim=True).clamp(min=1)
    zeros = scale < rtn.TINY
    codes = groups.sign() * (kept & ~zeros)
    scale = torch.where(zeros, 1.0, scale).expand(*groups.shape[:2], 1)[..., 0].contiguous()
    return QuantizedWeight.unchecked(codes.view(w.shape).to(torch.int8), scale, None, 2, scheme.group_size)


def refusal(scheme: Scheme, step: str) -> str | None:
    """Why there are no ternary weights of a scheme, or none with such steps; None where there are."""
    if step not in STEPS:
        return f"ternary={step!r}; allowed are 'channel' (one step for an output) and 'group' (one for each group)"
    if scheme.weight_bits != 2 or not scheme.symmetric:
        return f"ternary weights are stored in 2 bits without zero points, as in w2a8-g32, and not as {scheme}"
    return None
