"""Ternary weights in the codes of 2 bits, with the output's error of each column made up for by those after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.quantize.methods.base import Method
from kdnative.quantize.methods.gptq import GPTQ, compensated, usual_damping
from kdnative.quantize.methods.grid import Grid
from kdnative.quantize.statistics import Statistics
from kdnative.quantize.ternary import ternary_weight

__all__ = ["Ternary"]


@dataclass(frozen=True)
class Ternary(Method):
    """The steps of ternary weight networks (Li, Zhang and Liu 2016), the codes of GPTQ (Frantar et al. 2023).

    Codes are -1, 0 and 1 alone, of a scheme of 2 bits such as ``w2a8-g32``. It is where training starts from,
    ``prepare_qat_(model, "w2a8-g32", ternary=step, weights=calibrate_(..., method=Ternary(step)))``.

    Args:
        step: "channel": all groups of an output share a step. "group": each has its own.
        damping: as for `GPTQ`.
    """

    step: str = "channel"
    damping: float | None = None
    name = "ternary"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"second_moment"})

    def _quantize(self, weight: Tensor, scheme: Scheme, statistics: Statistics | None) -> QuantizedWeight:
        assert statistics is not None and statistics.second_moment is not None
        scale = ternary_weight(weight, scheme, self.step).scale
        ones = torch.ones_like(scale)
        grid = Grid(scheme, scale, -ones, ones)
        damping = self.damping or usual_damping(weight.shape[1], statistics.rows)
        return compensated(weight, scheme, statistics.second_moment, GPTQ(damping), grid)
