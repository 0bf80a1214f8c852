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
from kdnative.patterns import matches
from kdnative.quantize import FakeQuantLinear, finish_qat_, quantize_weight
from kdnative.quantize.linears import LinearSite, linears_of

__all__ = ["Change", "Changer", "Trained", "change_of", "changed", "linears", "masking", "rounding", "untrained"]

Trained = Mapping[str, "tuple[Scheme, QuantizedWeight, Tensor]"]
"""Layers that were trained for a scheme: that, their integer weight, and their float one."""


@dataclass(frozen=True)
class Change:
    """A layer's new weight, fp32 [N, K], and what becomes of its inputs."""

    weight: Tensor
    bytes: int
    inputs: Callable[[Tensor], Tensor] | None = None


Changer = Callable[[str, Tensor], "Change | None"]
"""The name of a layer and its weight [N, K] to its change; None where the change does not apply."""


def untrained(model: nn.Module) -> tuple[nn.Module, dict[str, tuple[Scheme, QuantizedWeight, Tensor]]]:
    """The model with plain linears, and which were trained for a scheme: that, their integer and float weights."""
    trained = {
        name: (module.scheme, module.quantized(), module.weight.detach())
        for name, module in model.named_modules()
        if isinstance(module, FakeQuantLinear)
    }
    if trained:
        model = copy.deepcopy(model)
        finish_qat_(model)
    return model, trained


def linears(model: nn.Module, patterns: Sequence[str]) -> dict[str, LinearSite]:
    """The linears of a model that patterns select, by name."""
    found = {n: site for n, site in linears_of(model).items() if any(matches(p, n) for p in patterns)}
    if not found:
        raise ValueError(f"layers={list(patterns)}: no linear layer of this model matches")
    return found


@contextmanager
def changed(sites: Mapping[str, LinearSite], changes: Mapping[str, Change]) -> Iterator[None]:
    """Changed layers; parameters are exchanged, not written to, as an embedding may share one of them."""
    kept: list[tuple[LinearSite, nn.Parameter]] = []
    handles = []
    try:
        for name, change in changes.items():
            site = sites[name]
            own = site.module._parameters[site.parameter]
            assert own is not None
            new = nn.Parameter(site.as_parameter(change.weight), requires_grad=False)
            kept.append((site, own))
            site.module._parameters[site.parameter] = new
            if change.inputs is not None:
                handles.append(site.module.register_forward_pre_hook(_before(change.inputs, site), with_kwargs=True))
        yield
    finally:
        for site, own in kept:
            site.module._parameters[site.parameter] = own
        for handle in handles:
            handle.remove()


def _before(change: Callable[[Tensor], Tensor], site: LinearSite) -> Callable[..., tuple[Any, Any]]:
    """Changes what a linear reads: its first argument, or queries, keys and values of torch's attention."""
    count = 3 if isinstance(site.module, nn.MultiheadAttention) else 1
    names = ("query", "key", "value") if count == 3 else ("input", "x")

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        first = tuple(change(x) for x in args[:count])
        return (*first, *args[count:]), {key: change(v) if key in names else v for key, v in kwargs.items()}

    return hook


def change_of(changer: Changer, change: str, name: str, site: LinearSite, trained: Trained) -> Change | None:
    """What becomes of a layer; one that was trained for this very scheme keeps its weight."""
    if name not in trained:
        return changer(name, site.weight)
    own, quantized, floats = trained[name]
    if not change.startswith("sparsity") and _stored(own) == _stored(Scheme.parse(change)):
        return _quantized(quantized, Scheme.parse(change))
    return changer(name, floats)


def _stored(scheme: Scheme) -> Scheme:
    """The scheme without what does not change a weight's value."""
    return replace(scheme.dense, activation=ActivationFormat())


def rounding(scheme: Scheme, given: Mapping[str, QuantizedWeight]) -> Changer:
    """Weights given by name, or rounded to the nearest codes; with 8-bit activations inputs are rounded too."""

    def rounded(name: str, weight: Tensor) -> Change | None:
        if scheme.group_size is not None and weight.shape[1] % scheme.group_size:
            return None
        return _quantized(given[name] if name in given else quantize_weight(weight, scheme), scheme)

    return rounded


def _quantized(weight: QuantizedWeight, scheme: Scheme) -> Change:
    """Integer weights, and int8 inputs where the scheme has them."""
    inputs = partial(_int8, weight.input_scale) if scheme.activation.kind == "dynamic" else None
    return Change(weight.dequantize(), weight.bytes(), inputs)


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

    def masked(name: str, weight: Tensor) -> Change:
        smallest = weight.abs().flatten().topk(round(share * weight.numel()), largest=False).indices
        zeroed = weight.flatten().index_fill(0, smallest, 0.0).view_as(weight)
        return Change(zeroed, weight.numel() * weight.element_size())

    return masked
