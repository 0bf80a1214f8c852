"""A network of convolutions in floats: the nodes of `kdnative.formats.convnet.graph` without ranges, and their weights.

Weights are the model's own tensors, not copies. So a graph stays up to date while its model is trained, gradients reach
the model's parameters, and a graph of a model on the meta device has shapes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kdnative.formats.convnet.graph import Fixed, Input, Node

__all__ = ["FloatGraph", "Folded", "Norm", "Scale", "Source"]

Folded = tuple[Tensor, Tensor]
"""Weight [O, I / groups, kh, kw] and bias [O] of a convolution, with everything that was folded into it."""


@dataclass(frozen=True, eq=False)
class Norm:
    """Batch normalization with running statistics: ``(x - mean) / sqrt(variance + eps) * weight + bias``, each [C]."""

    module: str
    mean: Tensor
    variance: Tensor
    eps: float
    weight: Tensor | None
    bias: Tensor | None

    def affine(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The same as a factor and an offset for each channel."""
        factor = (self.variance.to(dtype) + self.eps).rsqrt()
        if self.weight is not None:
            factor = factor * self.weight.to(dtype)
        offset = -self.mean.to(dtype) * factor
        return factor, offset if self.bias is None else offset + self.bias.to(dtype)


@dataclass(frozen=True, eq=False)
class Scale:
    """``x * factor + offset``; each is a number, or a tensor with one number or [C] of them."""

    module: str
    factor: Tensor | float = 1.0
    offset: Tensor | float = 0.0

    def affine(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Both as tensors that can be multiplied with [C]."""
        factor, offset = (torch.as_tensor(value, dtype=dtype) for value in (self.factor, self.offset))
        return factor.reshape(-1), offset.reshape(-1)


@dataclass(frozen=True, eq=False)
class Source:
    """What a convolution is made of.

    Args:
        module: name of the convolution or linear; empty where there is none (a normalization that stands alone).
        weight: [O, I / groups, kh, kw], or that of a linear layer [O, I * kh * kw]. None: ones, of a depthwise 1x1.
            It is the model's parameter, or a copy where the model computes it (parametrizations, standardized weights).
        bias: [O] or None.
        shape: of the kernel, [O, I / groups, kh, kw].
        behind: what its result goes through before anything else reads it, in order.
    """

    module: str
    weight: Tensor | None
    bias: Tensor | None
    shape: tuple[int, int, int, int]
    behind: tuple[Norm | Scale, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules it is made of: the convolution, then what was folded into it."""
        return (*filter(None, (self.module,)), *(part.module for part in self.behind))

    def fold(self, dtype: torch.dtype = torch.float32) -> Folded:
        """Weight and bias of one convolution, computed in float64 and rounded to ``dtype`` once. Differentiable."""
        exact = torch.float64
        device = self._device()
        weight = torch.ones(self.shape, dtype=exact, device=device) if self.weight is None else self.weight.to(exact)
        weight = weight.reshape(self.shape)
        bias = torch.zeros(self.shape[0], dtype=exact, device=device) if self.bias is None else self.bias.to(exact)
        for part in self.behind:
            factor, offset = (value.to(device) for value in part.affine(exact))
            weight, bias = weight * factor.reshape(-1, 1, 1, 1), bias * factor + offset
        return weight.to(dtype), bias.to(dtype)

    def _device(self) -> torch.device:
        tensors = [self.weight, *(part.mean if isinstance(part, Norm) else part.factor for part in self.behind)]
        return next((t.device for t in tensors if isinstance(t, Tensor)), torch.device("cpu"))


@dataclass(frozen=True)
class FloatGraph:
    """A network of convolutions with float weights.

    Args:
        nodes: in the order of execution; the first is the `Input`. ``out`` and every ``before`` are None.
        outputs: numbers of the nodes whose values the network returns, in order. One: a tensor; more: a tuple.
        flat: for each output, whether it is [N, C] (it has one pixel) and not [N, C, H, W].
        sources: of the weights of each `Conv`, by the node's name.
        shapes: [C, H, W] of each node's result for the size that was traced.
        fixed: the size of the images that were traced, where others don't fit; None where any size does.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    flat: tuple[bool, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)
    shapes: tuple[tuple[int, int, int], ...] = ()
    fixed: Fixed | None = None

    def fold(self, dtype: torch.dtype = torch.float32) -> dict[str, Folded]:
        """Weight and bias of every convolution, by the node's name."""
        return {name: source.fold(dtype) for name, source in self.sources.items()}

    def readers(self) -> list[list[int]]:
        """For each node the numbers of those that read it; -1 for each output it is."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for number, node in enumerate(self.nodes):
            for read in node.inputs:
                found[read].append(number)
        for output in self.outputs:
            found[output].append(-1)
        return found

    def only_here(self, why: str) -> FloatGraph:
        """The same for images of the traced size alone."""
        _, height, width = self.shapes[0]
        return replace(self, fixed=Fixed((height, width), why))

    @property
    def input(self) -> Input:
        """The node that takes the images."""
        node = self.nodes[0]
        assert isinstance(node, Input)
        return node
