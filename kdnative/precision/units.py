"""Linears that must have one scheme together, since they may run as one product: queries, keys and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os.path import commonprefix

from torch import nn

from kdnative.quantize.linears import LinearSite
from kdnative.quantize.watching import Identities, watched

__all__ = ["joint", "title"]


def joint(model: nn.Module, sites: Mapping[str, LinearSite], run: Callable[[], object]) -> list[tuple[str, ...]]:
    """Linears that read the very same tensors in a forward, together; all others alone. In the order of ``sites``.

    Every product that a fused operator has of several linears is of linears with one input, so what this finds is never
    too little. A linear that the forward does not call is alone.

    Args:
        run: calls the model once.
    """
    identities = Identities()
    calls: dict[str, list[int]] = {name: [] for name in sites}

    with watched(model, sites, lambda name, x, _: calls[name].append(identities.of(x))):
        run()
    found: dict[object, list[str]] = {}
    for name in sites:
        found.setdefault(tuple(calls[name]) or name, []).append(name)
    return [tuple(group) for group in found.values()]


def title(names: Sequence[str]) -> str:
    """``a.b.{query,key,value}`` for modules that belong together."""
    if len(names) == 1:
        return names[0]
    shared = commonprefix([name.split(".") for name in names])
    ends = [".".join(name.split(".")[len(shared) :]) for name in names]
    return ".".join([*shared, "{" + ",".join(ends) + "}"])
