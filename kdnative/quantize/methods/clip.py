"""Round to nearest in ranges that a search shrinks, weighted by the size of the inputs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.quantize.methods.base import Method
from kdnative.quantize.rtn import quantize_weight
from kdnative.quantize.statistics import Statistics

__all__ = ["Clip"]


@dataclass(frozen=True)
class Clip(Method):
    """`search_clip` with the mean square of each input: the least error of the output under independent inputs.

    Inputs are not independent: at 4 bits a smaller error of the weights can make the model worse than round to nearest.
    """

    name = "clip"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"mean_square"})

    def _quantize(self, weight: Tensor, scheme: Scheme, statistics: Statistics | None) -> QuantizedWeight:
        assert statistics is not None
        return quantize_weight(weight, scheme, clip_search=True, importance=statistics.mean_square)
