"""Two levels of scales for 4-bit weights: an fp32 scale per output channel, and an integer one per group.

Progressive group quantization (QServe, Lin et al. 2024): the weights are first rounded to int8 per channel, in thought,
and the groups of that are then given 4-bit codes, a zero point and a small integer scale, so that
``(code - zero) * group_scale`` is an int8 again and sums stay integers over all inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from kdnative.formats.weight import MOST_GROUP_SCALE, QuantizedWeight, code_range

__all__ = ["TwoLevel", "code_bounds", "codes_of", "quantize_two_level"]

_LOW, _HIGH = code_range(4)
_INT8 = 127


class TwoLevel(NamedTuple):
    """Integer-valued fp32 but for `scale`: codes [N, G, g], scale [N], group_scale and zero [N, G]; error [N, G]."""

    codes: torch.Tensor
    scale: torch.Tensor
    group_scale: torch.Tensor
    zero: torch.Tensor
    error: torch.Tensor

    def decoded(self) -> torch.Tensor:
        """The int8 codes that the kernels multiply, per channel, integer-valued fp32 [N, K]."""
        return ((self.codes - self.zero[..., None]) * self.group_scale[..., None]).flatten(1)

    def weight(self, group_size: int) -> QuantizedWeight:
        """The plain form."""
        return QuantizedWeight.unchecked(
            self.codes.flatten(1).to(torch.int8),
            self.scale,
            self.zero.to(torch.int8),
            4,
            group_size,
            self.group_scale.to(torch.uint8),
        )


def quantize_two_level(
    groups: torch.Tensor, clip: torch.Tensor | float | None = None, importance: torch.Tensor | None = None
) -> TwoLevel:
    """Rounds a grouped weight; of the integer scales next to a group's range, the one with the smaller error is taken.

    Args:
        groups: fp32 [N, G, g], finite.
        clip: shrink factors of the groups' ranges within (0, 1], a number or [N, G].
        importance: [G, g], how much the squared error of each column counts; None: all the same.

    Returns:
        See `TwoLevel`; ``error`` is the (weighted) sum of squared errors of every group, in steps of ``scale``.
    """
    n, g = groups.shape[:2]
    largest = groups.abs().amax((1, 2)) if groups.numel() else groups.new_zeros(n)
    scale = largest / torch.full_like(largest, _INT8)
    scale = torch.where(scale < 1e-32, 1.0, scale)  # as for other schemes: such channels become exact zeros
    steps = groups / scale[:, None, None]
    if steps.shape[-1] == 0:
        empty = groups.new_zeros(n, g)
        return TwoLevel(steps, scale, empty, empty, empty)
    low, high = steps.amin(-1).clamp(max=0), steps.amax(-1).clamp(min=0)
    if clip is not None:
        low, high = low * clip, high * clip
    ideal = (high - low) / torch.full_like(low, _HIGH - _LOW)
    best = None
    for rounded in (ideal.floor(), ideal.ceil()):
        found = _round(steps, low, rounded.clamp(1, MOST_GROUP_SCALE), importance)
        if best is None:
            best = found
            continue
        better = found[-1] < best[-1]
        best = tuple(
            torch.where(better[..., None] if new.dim() == 3 else better, new, old)
            for new, old in zip(found, best, strict=True)
        )
    codes, group_scale, zero, error = best
    return TwoLevel(codes, scale, group_scale, zero, error)


def code_bounds(group_scale: torch.Tensor, zero: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The lowest and the highest code of every group, [N, G]: others times the group's scale would leave int8."""
    reach = (_INT8 / group_scale).floor()
    return (zero - reach).clamp(min=_LOW), (zero + reach).clamp(max=_HIGH)


def codes_of(steps: torch.Tensor, zero: torch.Tensor, group_scale: torch.Tensor) -> torch.Tensor:
    """The nearest codes, integer-valued fp32 [N, G, g], of weights in steps of their channel, with those of groups."""
    codes = (steps / group_scale[..., None]).round_() + zero[..., None]
    lowest, highest = code_bounds(group_scale, zero)
    return torch.minimum(torch.maximum(codes, lowest[..., None]), highest[..., None])


def _round(steps: torch.Tensor, low: torch.Tensor, group_scale: torch.Tensor, importance: torch.Tensor | None):
    """Codes, group scale, zero point and error of the groups for given integer scales."""
    zero = (_LOW - low / group_scale).round().clamp(_LOW, _HIGH)
    codes = codes_of(steps, zero, group_scale)
    error = ((codes - zero[..., None]) * group_scale[..., None] - steps).square_()
    error = (error if importance is None else error * importance).sum(-1)
    return codes, group_scale, zero, error
