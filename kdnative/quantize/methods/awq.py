"""AWQ: the weights of strong inputs are made larger, so that they round better (Lin et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from kdnative.formats.scheme import Scheme
from kdnative.quantize.methods.base import Method
from kdnative.quantize.methods.clip import Clip
from kdnative.quantize.methods.scaling import Scaling, best_of, normalized
from kdnative.quantize.statistics import Statistics

__all__ = ["AWQ"]


@dataclass(frozen=True)
class AWQ(Scaling):
    """Input j is divided by ``s_j = (mean x_j^2)^(alpha / 2)``, and its weights multiplied by it.

    alpha is searched on a grid over [0, 1), for all linears that read the input at once, by the error of the output on
    a sample of the inputs with the activations rounded as the scheme does. The paper has the mean of \\|x_j\\| in the
    place of the root mean square, and leaves activations alone. s has the geometric mean 1; as in `SmoothQuant`, the
    layer multiplies its input by 1 / s.

    Args:
        weights: the method for the weights that result; the paper's is clip search.
        steps: how many alphas are tried.
    """

    weights: Method = field(default_factory=Clip)
    steps: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}; it counts the alphas to try, 1 or more")

    @property
    def name(self) -> str:
        """ "awq", and the method for the weights where it is another one."""
        return "awq" if isinstance(self.weights, Clip) else f"awq+{self.weights.name}"

    @property
    def needs(self) -> frozenset[str]:
        return self.weights.needs | {"mean_square", "sample"}

    def _divisor(self, weight: Tensor, scheme: Scheme, statistics: Statistics) -> Tensor:
        assert statistics.mean_square is not None
        root = statistics.mean_square.sqrt()
        divisors = (normalized(root ** (step / self.steps)) for step in range(self.steps))
        return best_of(divisors, weight, scheme, statistics.sample)
