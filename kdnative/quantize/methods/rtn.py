"""Round to nearest, in ranges that cover every weight: what the other methods are measured against."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.quantize.methods.base import Method
from kdnative.quantize.rtn import quantize_weight
from kdnative.quantize.statistics import Statistics

__all__ = ["RoundToNearest"]


@dataclass(frozen=True)
class RoundToNearest(Method):
    """`quantize_weight` with its defaults; no data."""

    name = "rtn"

    def _quantize(self, weight: Tensor, scheme: Scheme, statistics: Statistics | None) -> QuantizedWeight:
        return quantize_weight(weight, scheme)
