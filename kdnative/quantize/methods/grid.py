"""The values that the weights of each group may take, once its range is settled."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight, code_range
from kdnative.quantize import rtn
from kdnative.quantize.two_level import code_bounds, quantize_two_level

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """Steps from ``low`` to ``high`` around zero: a group's weights are ``n * step`` with whole numbers n.

    Args:
        scheme: of the weight.
        step: fp32 [N, G], positive.
        low, high: integer-valued fp32 [N, G].
        zero: the code of n = 0, integer-valued fp32 [N, G]; None: code 0, in symmetric schemes.
        scale, group_scale: of two levels of scales, [N] and integer-valued [N, G], whose product ``step`` is.
    """

    scheme: Scheme
    step: Tensor
    low: Tensor
    high: Tensor
    zero: Tensor | None = None
    scale: Tensor | None = None
    group_scale: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, scheme: Scheme, clip: Tensor | None = None, importance: Tensor | None = None) -> Grid:
        """The ranges of a weight, fp32 [N, K], shrunk by factors [N, G].

        Args:
            importance: [K]; where there are two levels of scales, steers the choice between neighbouring ones.
        """
        groups = rtn.grouped(weight, scheme.group_size)
        if scheme.integer_scales:
            columns = None if importance is None else importance.view(groups.shape[1:])
            two = quantize_two_level(groups, clip, columns)
            low, high = code_bounds(two.group_scale, two.zero)
            step = two.scale[:, None] * two.group_scale
            return cls(scheme, step, low - two.zero, high - two.zero, two.zero, two.scale, two.group_scale)
        bits = scheme.weight_bits
        used = rtn.apply_clip(rtn.base_range(groups, bits, scheme.symmetric), bits, clip)
        zero = torch.zeros_like(used.scale) if used.zero is None else used.zero
        low, high = code_range(bits)
        return cls(scheme, used.scale, low - zero, high - zero, used.zero)

    @classmethod
    def searched(cls, weight: Tensor, scheme: Scheme, importance: Tensor | None = None) -> Grid:
        """The ranges that `search_clip` finds."""
        return cls.of(weight, scheme, rtn.search_clip(weight, scheme, importance=importance), importance)

    def steps(self, groups: Tensor) -> Tensor:
        """The nearest allowed whole numbers of steps of a grouped weight, fp32 [N, G, K / G]."""
        steps = (groups / self.step[..., None]).round_()
        return torch.minimum(torch.maximum(steps, self.low[..., None]), self.high[..., None])

    def shifted(self, by: Tensor) -> Grid:
        """The same steps around other zero points, as far as these are codes; ``by``: integer-valued fp32 [N, G]."""
        assert self.zero is not None
        lowest, highest = code_range(self.scheme.weight_bits)
        zero = (self.zero + by).clamp(lowest, highest)
        if self.group_scale is None:
            return dataclasses.replace(self, zero=zero, low=lowest - zero, high=highest - zero)
        low, high = code_bounds(self.group_scale, zero)
        return dataclasses.replace(self, zero=zero, low=low - zero, high=high - zero)

    def where(self, chosen: Tensor, other: Grid) -> Grid:
        """The chosen groups of this one, bool [N, G], and the rest of another that has the same scales of channels."""
        changes = {
            name: torch.where(chosen, value, getattr(other, name))
            for name in ("step", "low", "high", "zero", "group_scale")
            if (value := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, **changes)

    def weight(self, values: Tensor) -> QuantizedWeight:
        """The plain form of the nearest allowed values of ``values``, fp32 [N, K]."""
        codes = self.steps(rtn.grouped(values, self.scheme.group_size))
        if self.zero is not None:
            codes += self.zero[..., None]
        codes = codes.to(torch.int8).view(values.shape)
        zero = None if self.zero is None else self.zero.to(torch.int8)
        bits, group_size = self.scheme.weight_bits, self.scheme.group_size
        if self.group_scale is not None:
            assert self.scale is not None
            return QuantizedWeight.unchecked(
                codes, self.scale, zero, bits, group_size, self.group_scale.to(torch.uint8)
            )
        if group_size is None:
            return QuantizedWeight.unchecked(codes, self.step[:, 0], None if zero is None else zero[:, 0], bits, None)
        return QuantizedWeight.unchecked(codes, self.step, zero, bits, group_size)
