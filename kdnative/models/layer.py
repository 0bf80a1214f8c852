"""One layer of a transformer as a model keeps it: the linears and norms that do its work, whatever their names are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Layer", "Named", "Unsupported", "activation_name", "check_parameters", "one_of"]

Named = tuple[str, nn.Linear]
"""A linear and its name inside the model."""


class Unsupported(Exception):
    """Why a model can't become a native encoder."""


@dataclass(frozen=True)
class Layer:
    """One transformer layer. ``qkv`` and ``ffn_in`` are linears whose outputs follow one another.

    ``norms`` go by their names in :class:`kdnative.nn.encoder_parts.LayerParts`. ``window``: columns that attention
    reaches to either side, None for all. ``rope_theta``: base of the rotary positions, None without.
    """

    qkv: list[Named]
    output: Named
    ffn_in: list[Named]
    ffn_out: Named
    norms: dict[str, nn.LayerNorm]
    head_dim: int
    scaling: float
    activation: object
    window: int | None = None
    rope_theta: float | None = None

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of its linears and norms."""
        for _, linear in (*self.qkv, self.output, *self.ffn_in, self.ffn_out):
            yield from linear.parameters()
        for norm in self.norms.values():
            yield from norm.parameters()


_ACTIVATIONS = {
    "GELUActivation": "gelu",
    "GELU": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "AccurateGELUActivation": "gelu_tanh",
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "Tanh": "tanh",
}
_FUNCTIONS = ((F.gelu, "gelu"), (F.relu, "relu"), (torch.relu, "relu"), (F.silu, "silu"), (torch.tanh, "tanh"))


def check_parameters(module: nn.Module, used: Iterable[nn.Parameter]) -> None:
    """Unsupported when ``module`` has parameters that its native form is not made of: they do something else there."""
    known = {id(parameter) for parameter in used}
    left = [name for name, parameter in module.named_parameters() if id(parameter) not in known]
    if left:
        raise Unsupported(f"it has parameters that are not known of {type(module).__name__}: {', '.join(left)}")


def activation_name(fn: object) -> str:
    """The native name of an activation: a module, or a function of torch."""
    kind = type(fn).__name__
    if isinstance(fn, nn.GELU):
        return "gelu_tanh" if fn.approximate == "tanh" else "gelu"
    if kind in _ACTIVATIONS:
        return _ACTIVATIONS[kind]
    for function, name in _FUNCTIONS:
        if fn is function:
            return name
    name = getattr(fn, "__name__", kind)
    raise Unsupported(f"its activation {name} has no kernel; known are {', '.join(sorted(_ACTIVATIONS))}")


def one_of(values: list, what: str):
    """The one value that all layers share; None for no layers."""
    if len(set(values)) > 1:
        raise Unsupported(f"its layers differ in {what}: {', '.join(map(str, sorted(set(values))))}")
    return values[0] if values else None
