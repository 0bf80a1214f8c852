"""Input scales: factors of a layer's inputs that its weights take back, so that both round better."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdnative.formats import arithmetic
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.quantize.methods.base import Method
from kdnative.quantize.rtn import quantize_weight
from kdnative.quantize.statistics import Statistics

__all__ = ["Scaling", "best_of", "normalized", "output_error"]

_FURTHEST = 100.0
"""How far a factor may be from the geometric mean. Calibration that hardly ever reached an input would else leave it a
factor that blows it up on other data, and with it the range of every token."""


_ROWS = 256
"""Rows of the sample on which scales are compared; 512 take longer and choose no better."""


def normalized(strength: Tensor) -> Tensor:
    """What inputs are divided by, from how strong each is, [K]: geometric mean 1, and 1 where the strength is 0."""
    alive = strength > 0
    if not bool(alive.any()):
        return torch.ones_like(strength)
    logs = strength.clamp(min=torch.finfo(torch.float32).tiny).log()
    divisor = (logs - logs[alive].mean()).exp().clamp(1 / _FURTHEST, _FURTHEST)
    return torch.where(alive, divisor, 1.0)


class Scaling(Method):
    """A method that divides inputs by something, has their weights take it back, and leaves these to another one."""

    input_scales = True
    weights: Method

    @abstractmethod
    def _divisor(self, weight: Tensor, scheme: Scheme, statistics: Statistics) -> Tensor:
        """What the inputs are divided by, [K]."""

    def _quantize(self, weight: Tensor, scheme: Scheme, statistics: Statistics | None) -> QuantizedWeight:
        assert statistics is not None
        return _with_input_scales(
            self.weights, weight, scheme, statistics, 1 / self._divisor(weight, scheme, statistics)
        )

    def settled(self, input_scale: Tensor | None) -> Method:
        return _Settled(self, input_scale)


@dataclass(frozen=True)
class _Settled(Method):
    """A method whose input scales were found for other linears of the same input; None: they have none."""

    method: Scaling
    input_scale: Tensor | None
    input_scales = True

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def needs(self) -> frozenset[str]:
        return self.method.needs

    def _quantize(self, weight: Tensor, scheme: Scheme, statistics: Statistics | None) -> QuantizedWeight:
        assert statistics is not None
        factor = torch.ones_like(weight[0]) if self.input_scale is None else self.input_scale.to(weight)
        return _with_input_scales(self.method.weights, weight, scheme, statistics, factor)


def _with_input_scales(
    method: Method, weight: Tensor, scheme: Scheme, statistics: Statistics, factor: Tensor
) -> QuantizedWeight:
    """What a method makes of a weight, fp32 [N, K], whose inputs are multiplied by ``factor``, [K]."""
    if bool((factor == 1).all()):  # nothing to multiply by
        return method._quantize(weight, scheme, statistics)
    return method._quantize(weight / factor, scheme, _scaled(statistics, factor)).changed(input_scale=factor)


def _scaled(statistics: Statistics, factor: Tensor) -> Statistics:
    """The statistics of inputs that are multiplied by ``factor``, [K]."""
    powers = {"mean_square": factor.square(), "largest": factor, "sample": factor}
    changes = {name: v * power for name, power in powers.items() if (v := getattr(statistics, name)) is not None}
    if statistics.second_moment is not None:
        changes["second_moment"] = statistics.second_moment * factor * factor[:, None]
    return dataclasses.replace(statistics, **changes)


def output_error(right: Tensor, sample: Tensor, rounded: Tensor, factor: Tensor, scheme: Scheme) -> float:
    """The squared error of a layer's output, whose activations are rounded as the scheme does.

    Args:
        right: the output of the float layer on the sample, without its bias, fp32 [R, N].
        sample: inputs, fp32 [R, K].
        rounded: the weight of the inputs times ``factor``, fp32 [N, K]; factor: [K].
    """
    inputs = sample * factor
    if scheme.activation_bits == 8:
        codes, scale = arithmetic.quantize_rows(inputs)
        inputs = codes.mul_(scale[:, None])
    return float(torch.addmm(right, inputs, rounded.t(), alpha=-1).square_().sum(dtype=torch.float64))


def best_of(divisors: Iterable[Tensor], weight: Tensor, scheme: Scheme, sample: Tensor | None) -> Tensor:
    """The divisors of the inputs with the least `output_error` of weights rounded to the nearest; ties: the first."""
    assert sample is not None
    sample = sample[:_ROWS]
    right = sample @ weight.t()
    least, best = torch.inf, torch.ones_like(weight[0])
    for divisor in divisors:
        rounded = quantize_weight(weight * divisor, scheme).dequantize()
        error = output_error(right, sample, rounded, 1 / divisor, scheme)
        if error < least:
            least, best = error, divisor
    return best
