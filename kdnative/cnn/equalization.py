"""Cross-layer equalization: channels between two convolutions are scaled so that all of them fill the range of the map.

A factor on an output channel of a convolution passes through ReLU, and its inverse on the same input channel of the
next convolution undoes it, so the network computes what it did (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", 2019). That paper equalizes ranges of weights that have one scale a layer. Here each
output channel has its own, and what suffers are maps with one scale for all channels: factors come from the ranges of
channels that calibration saw (as in Meller et al., "Same, Same But Different", 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdnative.cnn.floats import FloatGraph, Folded
from kdnative.formats.convnet.graph import Conv, Pool

__all__ = ["Pair", "factors_of", "pairs_of", "scaled"]

_MOST = 32.0
"""A channel gets at most so many times larger: what calibration saw of a nearly dead one says little."""

_DEPTHWISE = 0.7
"""How even a map before a depthwise kernel becomes. Each output has its own scale there, so 1 would cost no weight
anything; but a channel that fills its range has no room for images that calibration did not see."""

_DENSE = 0.3
"""The same before other kernels, whose weights of an output share a scale: 1 is an even map, 0 are even weights."""

_HOMOGENEOUS = ("none", "relu", "relu6", "leaky_relu")


@dataclass(frozen=True)
class Pair:
    """Two convolutions that nothing but pooling stands between: their numbers."""

    first: int
    second: int


def pairs_of(graph: FloatGraph) -> list[Pair]:
    """Where channels can be scaled: nothing else reads what lies between, and scaling passes through it."""
    readers, found = graph.readers(), []
    for number, node in enumerate(graph.nodes):
        if not isinstance(node, Conv) or len(node.inputs) > 1 or node.ending.activation not in _HOMOGENEOUS:
            continue
        last = number
        while len(readers[last]) == 1 and readers[last][0] >= 0 and isinstance(graph.nodes[readers[last][0]], Pool):
            last = readers[last][0]
        if len(readers[last]) != 1 or readers[last][0] < 0:
            continue
        reader = graph.nodes[readers[last][0]]
        if isinstance(reader, Conv) and reader.inputs[0] == last and last not in reader.inputs[1:]:
            found.append(Pair(number, readers[last][0]))
    return found


def factors_of(graph: FloatGraph, folded: Mapping[str, Folded], largest: Sequence[Tensor | None]) -> dict[Pair, Tensor]:
    """What each channel between two convolutions is to be multiplied by, [C].

    A ReLU6 stays what it is: no channel gets beyond 6 on what calibration saw, and those that reach 6 keep their scale.

    Args:
        graph: the network. folded: its weights and biases.
        largest: for each node, the largest absolute value of each channel of its result, [C]; None where that is not
            known.
    """
    result, factors = dict(folded), {}
    for pair in pairs_of(graph):
        first, second = graph.nodes[pair.first], graph.nodes[pair.second]
        assert isinstance(first, Conv) and isinstance(second, Conv)
        reach = largest[pair.first]
        if reach is None:
            continue
        after = result[second.name][0]
        factor = _factors(reach.to(torch.float64), _largest_by_input(after, second.groups), first, second).to(after)
        factors[pair] = factor
        result = scaled(graph, result, {pair: factor})
    return factors


def scaled(graph: FloatGraph, folded: Mapping[str, Folded], factors: Mapping[Pair, Tensor]) -> dict[str, Folded]:
    """Weights and biases of the same network with other scales of channels. Differentiable.

    Args:
        graph: the network. folded: its weights and biases.
        factors: what `factors_of` gives.
    """
    result = dict(folded)
    for pair, factor in factors.items():
        first, second = graph.nodes[pair.first], graph.nodes[pair.second]
        assert isinstance(second, Conv)
        weight, bias = result[first.name]
        result[first.name] = weight * factor.reshape(-1, 1, 1, 1), bias * factor
        after, after_bias = result[second.name]
        result[second.name] = _by_input(after, second.groups, 1 / factor), after_bias
    return result


def _factors(reach: Tensor, weights: Tensor, first: Conv, second: Conv) -> Tensor:
    """What each channel between the two is multiplied by; 1 where nothing was seen of it."""
    top = reach.max()
    if second.groups == second.channels == len(reach):
        factor = (top / reach) ** _DEPTHWISE
    else:
        factor = weights.to(torch.float64) ** (1 - _DENSE) / reach**_DENSE
        seen = (reach > 0) & torch.isfinite(factor)
        if not bool(seen.any()):
            return torch.ones_like(reach)
        factor = factor * top / (reach * factor)[seen].max()
    if first.ending.activation == "relu6":
        factor = torch.minimum(factor, 6 / reach)
        factor = torch.where(reach >= 6 * (1 - 1e-5), torch.ones_like(factor), factor)
    usable = (reach > 0) & torch.isfinite(factor) & (factor > 0)
    return torch.where(usable, factor, torch.ones_like(factor)).clamp(1 / _MOST, _MOST)


def _largest_by_input(weight: Tensor, groups: int) -> Tensor:
    """[I], over the outputs and taps that read each input channel."""
    grouped = weight.abs().reshape(groups, -1, *weight.shape[1:])  # [groups, O / groups, I / groups, kh, kw]
    return grouped.amax((1, 3, 4)).reshape(-1)


def _by_input(weight: Tensor, groups: int, factor: Tensor) -> Tensor:
    """Each input channel times its factor."""
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return (grouped * factor.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape)
