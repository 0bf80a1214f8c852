"""A linear layer for a while with another weight, and with rounded inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from kdnative import ops
from kdnative.formats.scheme import ActivationFormat, Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.models import hf
from kdnative.patterns import matches
from kdnative.quantize import FakeQuantLinear, finish_qat_, quantize_weight

__all__ = ["Change", "Changer", "Trained", "change_of", "changed", "linears", "masking", "rounding", "untrained"]

Trained = Mapping[str, "tuple[Scheme, Tensor]"]
"""Layers that were trained for a scheme: that, and their float weight."""


@dataclass(frozen=True)
class Change:
    """A layer's new weight, fp32 [N, K], and what becomes of its inputs."""

    weight: Tensor
    bytes: int
    inputs: Callable[[Tensor], Tensor] | None = None


Changer = Callable[[str, nn.Module], "Change | None"]
"""The name of a layer and the layer to its change; None where the change does not apply."""


def untrained(model: nn.Module) -> tuple[nn.Module, dict[str, tuple[Scheme, Tensor]]]:
    """The model with plain linears, and which were trained for a scheme: that and their float weights."""
    trained = {
        name: (module.scheme, module.weight.detach())
        for name, module in model.named_modules()
        if isinstance(module, FakeQuantLinear)
    }
    if trained:
        model = copy.deepcopy(model)
        finish_qat_(model)
    return model, trained


def linears(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Linears, and what amounts to one, by name."""
    found = {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or hf.is_conv1d(module)) and any(matches(p, name) for p in patterns)
    }
    if not found:
        raise ValueError(f"layers={list(patterns)}: no linear layer of this model matches")
    return found


def _matrix(module: nn.Module) -> Tensor:
    """The weight [N, K]."""
    weight = module.weight.detach()
    return weight.t() if hf.is_conv1d(module) else weight


@contextmanager
def changed(modules: Mapping[str, nn.Module], changes: Mapping[str, Change]) -> Iterator[None]:
    """Changed layers; parameters are exchanged, not written to, as an embedding may share one of them."""
    kept: list[tuple[nn.Module, nn.Parameter]] = []
    handles = []
    try:
        for name, change in changes.items():
            module = modules[name]
            own = module._parameters["weight"]
            assert own is not None
            new = (change.weight.t() if hf.is_conv1d(module) else change.weight).to(own)
            kept.append((module, own))
            module._parameters["weight"] = nn.Parameter(new, requires_grad=False)
            if change.inputs is not None:
                handles.append(module.register_forward_pre_hook(_before(change.inputs)))
        yield
    finally:
        for module, own in kept:
            module._parameters["weight"] = own
        for handle in handles:
            handle.remove()


def _before(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    return lambda module, args: (change(args[0]), *args[1:])


def change_of(
    changer: Changer, change: str, name: str, module: nn.Module, trained: Trained
) -> Change | None:
    """What becomes of a layer; one that was trained for this very scheme stays as it is."""
    if name in trained:
        own, floats = trained[name]
        if change == str(own) or (not change.startswith("sparsity") and _stored(own) == _stored(Scheme.parse(change))):
            return Change(_matrix(module), 0)
        plain = nn.Linear(floats.shape[1], floats.shape[0], device="meta")
        plain.weight = nn.Parameter(floats, requires_grad=False)
        return changer(name, plain)
    return changer(name, module)


def _stored(scheme: Scheme) -> Scheme:
    """The scheme without what does not change a weight's value."""
    return replace(scheme.dense, activation=ActivationFormat())


def rounding(scheme: Scheme, given: Mapping[str, QuantizedWeight]) -> Changer:
    """Weights that were given by name, or rounded to the nearest codes; with 8-bit activations inputs are rounded too."""

    def rounded(name: str, module: nn.Module) -> Change | None:
        weight = _matrix(module)
        if scheme.group_size is not None and weight.shape[1] % scheme.group_size:
            return None
        quantized = given[name] if name in given else quantize_weight(weight, scheme)
        inputs = partial(_int8, quantized.input_scale) if scheme.activation.kind == "dynamic" else None
        return Change(quantized.dequantize(), quantized.bytes(), inputs)

    return rounded


def _int8(factor: Tensor | None, x: Tensor) -> Tensor:
    """Activations as the kernels read them: int8 per token, of ``x * factor`` where there is one."""
    scaled = x if factor is None else x.float() * factor.to(x.device)
    codes, scale = ops.quantize_per_token(scaled)
    rounded = codes.float() * scale[..., None]
    return (rounded if factor is None else rounded / factor.to(x.device)).to(x.dtype)


def masking(share: float) -> Changer:
    """The smallest weights set to 0."""
    if not 0 < share < 1:
        raise ValueError(f"sparsity {share}: within 0 and 1, both excluded")

    def masked(name: str, module: nn.Module) -> Change:
        weight = _matrix(module)
        smallest = weight.abs().flatten().topk(round(share * weight.numel()), largest=False).indices
        zeroed = weight.flatten().index_fill(0, smallest, 0.0).view_as(weight)
        return Change(zeroed, weight.numel() * weight.element_size())

    return masked
