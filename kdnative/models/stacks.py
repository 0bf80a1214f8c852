"""Which modules of a model are its layers: what pruning, hidden-state distillation and calibration ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdnative.models.family import Family, NoSuchPart, families, family_of, find, need

__all__ = ["Stack", "hidden_size", "hidden_states", "layers_of", "stacks"]


@dataclass(frozen=True)
class Stack:
    """Layers of one family that run one after the other.

    Args:
        name: path of the container in the model.
        owner: the module that holds the container under ``attribute``.
        family: of the layers.
        config: the configuration of the innermost module around that has one, or None.
    """

    name: str
    owner: nn.Module
    attribute: str
    family: Family
    config: Any

    @property
    def container(self) -> nn.ModuleList | nn.Sequential:
        return getattr(self.owner, self.attribute)

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.container)


def stacks(model: nn.Module) -> list[Stack]:
    """Every `nn.ModuleList` and `nn.Sequential` in ``model`` that holds only layers of one family, in their order.

    Layers are recognised by their class, or one that it is derived from; and, for the families that say so
    (``by_parts``: BERT, MPNet, DistilBERT), by the names of their parts.
    """
    found = []
    for name, container in model.named_modules():
        if name and isinstance(container, (nn.ModuleList, nn.Sequential)) and len(container):
            family = _family_of_all(list(container))
            if family is not None:
                path, _, attribute = name.rpartition(".")
                config = _nearest_config(model, path)
                found.append(Stack(name, model.get_submodule(path), attribute, family, config))
    return found


def layers_of(model: nn.Module, stack: str | None = None) -> list[nn.Module]:
    """The layers of ``model`` in their order, by the table of families; they take and return hidden states.

    Args:
        stack: path of their container, for models with several stacks of layers, such as CLIP.

    Raises:
        ValueError: no layers of a known family, or several stacks and none chosen; the text lists them.
    """
    return _chosen(model, stack).layers


def hidden_size(model: nn.Module, stack: str | None = None) -> int:
    """The width of the hidden states between the layers of ``model``; arguments and errors as of `layers_of`."""
    chosen = _chosen(model, stack)
    return need(chosen.layers[0], chosen.family.down).out_features


@contextmanager
def hidden_states(model: nn.Module, stack: str | None = None) -> Iterator[list[Tensor]]:
    """Collects hidden states ``[B, T, H]`` of calls of ``model`` inside the ``with`` block, with their gradients.

    The list that it gives holds those of the last call: what the first layer was given, and what each layer returned
    (the first of its results, where it returns a tuple). A final norm is not applied. Layers keep working as they do.
    Arguments and errors are those of `layers_of`.
    """
    layers, states = layers_of(model, stack), []

    def before(layer: nn.Module, given: tuple, named: dict) -> None:
        states[:] = [given[0] if given else named["hidden_states"]]

    def after(layer: nn.Module, given: tuple, output: Any) -> None:
        states.append(output if isinstance(output, Tensor) else output[0])

    hooks = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    hooks += [layer.register_forward_hook(after) for layer in layers]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def _chosen(model: nn.Module, name: str | None) -> Stack:
    found = stacks(model)
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no layers of a known family: kdnative.models.register(Family(...)) makes one "
            "known; docs/models.md lists those that are"
        )
    names = {stack.name: stack for stack in found}
    if name is None and len(found) == 1:
        return found[0]
    if name not in names:
        asked = "" if name is None else f", and no stack {name!r}"
        raise ValueError(
            f"{type(model).__name__} has {len(found)} stacks of layers{asked}: name one of {', '.join(names)}"
        )
    return names[name]


def _family_of_all(layers: list[nn.Module]) -> Family | None:
    rows = {family_of(layer, subclasses=True) for layer in layers}
    if rows != {None}:
        return rows.pop() if len(rows) == 1 else None
    return next((row for row in families() if row.by_parts and all(_fits(layer, row) for layer in layers)), None)


def _fits(layer: nn.Module, row: Family) -> bool:
    """Whether a layer of any class has the linears of a family, and an attention that says how many heads it has."""
    try:
        attention = need(layer, row.attention)
        linears = [] if callable(row.qkv) else [need(attention, path) for path in row.qkv]
        linears += [need(layer, path) for path in (row.output, row.up, row.down)]
        needed = (row.head_dim.removesuffix("?"), "|".join(row.heads), "|".join(row.width))
        return all(isinstance(m, nn.Linear) for m in linears) and all(find(attention, path) for path in needed)
    except NoSuchPart:
        return False


def _nearest_config(model: nn.Module, name: str) -> Any:
    """The configuration of the module `name`, or of the innermost module around it that has one."""
    path = name.split(".") if name else []
    for depth in range(len(path), -1, -1):
        config = getattr(model.get_submodule(".".join(path[:depth])), "config", None)
        if config is not None:
            return config
    return None
