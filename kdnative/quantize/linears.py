"""The linear layers of a model, whatever their classes are: their weights, and what their inputs are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

__all__ = ["LinearSite", "linears_of"]


@dataclass(frozen=True)
class LinearSite:
    """A linear in its model.

    Args:
        name: path of the module that holds its weight; "" is the model itself.
        module: that module: an ``nn.Linear``, the ``Conv1D`` of GPT-2, or an ``nn.MultiheadAttention``, whose linear is
            that of queries, keys and values.
        parameter: name of the weight in the module.
        transposed: whether the parameter is ``[K, N]``.
    """

    name: str
    module: nn.Module
    parameter: str = "weight"
    transposed: bool = False

    @property
    def path(self) -> str:
        """Name of the parameter in the model."""
        return f"{self.name}.{self.parameter}".strip(".")

    @property
    def weight(self) -> Tensor:
        """``[N, K]``, a view of the parameter without its history."""
        weight = getattr(self.module, self.parameter).detach()
        return weight.t() if self.transposed else weight

    @property
    def inputs(self) -> int:
        return int(self.weight.shape[1])

    def as_parameter(self, weight: Tensor) -> Tensor:
        """A weight ``[N, K]`` in the shape and dtype of the parameter."""
        own = getattr(self.module, self.parameter)
        return (weight.t() if self.transposed else weight).to(own)

    def digest(self) -> str:
        """SHA-256 of the weight's values, hexadecimal."""
        values = self.weight.cpu().contiguous()
        digest = hashlib.sha256(f"{values.dtype}{list(values.shape)}".encode())
        digest.update(values.view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def linears_of(model: nn.Module) -> dict[str, LinearSite]:
    """What multiplies by a weight, and can be watched, by its name; each module once, outermost first.

    Left out are subclasses, which may compute something else, such as ``FakeQuantLinear``; the inside of native
    modules; and torch's attention with a ``kdim`` or ``vdim`` of its own, which has three weights.
    """
    found: dict[str, LinearSite] = {}
    projections: set[int] = set()  # of torch's attentions: those that are watched
    inside: set[int] = set()  # of native modules, which come from packages above this one
    for name, module in model.named_modules():
        kind = type(module)
        if hasattr(kind, "plain_shapes"):
            inside.update(map(id, module.modules()))
        if id(module) in inside:
            continue
        if kind is nn.MultiheadAttention and module.in_proj_weight is not None:
            found[name] = LinearSite(name, module, "in_proj_weight")
            projections.add(id(module.out_proj))
        elif kind is nn.Linear or (kind is NonDynamicallyQuantizableLinear and id(module) in projections):
            found[name] = LinearSite(name, module)
        elif kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils":
            found[name] = LinearSite(name, module, transposed=True)
    return found
