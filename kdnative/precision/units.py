"""Linears that must have one scheme together, since they may run as one product: queries, keys and values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os.path import commonprefix
from typing import Any

from torch import Tensor, nn

__all__ = ["joint", "title"]


def joint(model: nn.Module, names: Iterable[str], run: Any) -> list[tuple[str, ...]]:
    """Modules that read the very same input in a forward, together; all others alone. In the order of ``names``.

    Every product that a fused operator has of several linears is of linears with one input, so what this finds is never
    too little. A module that the forward does not call is alone.

    Args:
        model: the one that has them.
        names: of linears.
        run: a function without arguments that calls the model once.
    """
    modules: Mapping[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    seen: dict[str, Tensor] = {}
    keys: dict[str, Any] = {}
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if name not in seen and args and isinstance(args[0], Tensor):
                x = args[0]
                seen[name] = x  # kept, so that no other tensor gets its place in memory
                keys[name] = (x.data_ptr(), x.shape, x.stride(), x._version)

        return hook

    names = list(names)
    try:
        for name in names:
            handles.append(modules[name].register_forward_pre_hook(watch(name)))
        run()
    finally:
        for handle in handles:
            handle.remove()
    found: dict[Any, list[str]] = {}
    for name in names:
        found.setdefault(keys.get(name, name), []).append(name)
    return [tuple(group) for group in found.values()]


def title(names: Sequence[str]) -> str:
    """``a.b.{query,key,value}`` for modules that belong together."""
    if len(names) == 1:
        return names[0]
    shared = commonprefix([name.split(".") for name in names])
    ends = [".".join(name.split(".")[len(shared) :]) for name in names]
    return ".".join([*shared, "{" + ",".join(ends) + "}"])
