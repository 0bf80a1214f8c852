"""A model at work on a few images: how its modules are called, and whether a graph computes what they do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kdnative.cnn import FloatGraph, run
from kdnative.cnn.recording import ModuleCall
from kdnative.quantize.inputs import InputBatch
from kdnative.quantize.watching import forward, watched

__all__ = ["Seen"]

_IMAGES = 2


class Seen:
    """What was seen of every module.

    Args:
        model: run in evaluation mode, and left as it was.
        batch: its inputs, of which the first images count: the first of a calibration.

    Raises:
        ValueError: the model can't run it.

    Attributes:
        calls: how modules were called, by their names.
        follows: the module whose result a module was given, if both have the same parent.
    """

    def __init__(self, model: nn.Module, batch: InputBatch) -> None:
        self.model, self.batch = model, _few(batch)
        self.calls: dict[str, ModuleCall] = {}
        self.follows: dict[str, str] = {}
        self.inputs: dict[str, Tensor] = {}
        self.results: dict[str, list[Tensor]] = {}
        self._givers: dict[tuple[str, int], str] = {}  # who returned a tensor, by their parents and its id
        self._alive: list[Any] = []  # ids of what is gone would be used again
        with ExitStack() as stack, watched(model, {}, lambda name, x, _: None):
            for name, module in model.named_modules():
                stack.callback(module.register_forward_pre_hook(self._before(name), with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._behind(name)).remove)
            try:
                forward(model, self.batch)
            except Exception as error:  # whatever a user's code raises
                raise ValueError(
                    f"the model can't run batch 0 of calibration, {_shown(batch)}: {type(error).__name__}: "
                    f"{error}. Give batches that the model's forward accepts"
                ) from error
        self._alive.clear()

    def _before(self, name: str) -> Callable[..., None]:
        parent = name.rpartition(".")[0]

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            times = self.calls[name].times + 1 if name in self.calls else 1
            given = [*args, *kwargs.values()] if kwargs.keys() <= {"x"} else []  # as ConvNet's forward calls it
            x = given[0] if len(given) == 1 and isinstance(given[0], Tensor) else None
            self.calls[name] = ModuleCall(times, None if x is None else tuple(x.shape), "nothing")
            if x is not None:
                self._alive.append(x)
                self.inputs[name] = x.clone()  # the module may write into it
                if (giver := self._givers.get((parent, id(x)))) is not None:
                    self.follows[name] = giver

        return hook

    def _behind(self, name: str) -> Callable[..., None]:
        parent = name.rpartition(".")[0]

        def hook(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            kind = "Tensor" if isinstance(result, Tensor) else type(result).__name__
            self.calls[name] = replace(self.calls[name], result=kind)
            self._alive.append(result)
            self.results[name] = _tensors(result)
            self._givers[parent, id(result)] = name

        return hook

    def shares(self) -> dict[str, float]:
        """Of the products that convolutions and linears compute for an image, the share of each, by their names."""
        products: dict[str, float] = {}
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and len(self.results.get(name, ())) == 1:
                result = self.results[name][0]
                products[name] = result.numel() * (module.weight.numel() / len(module.weight)) * self.calls[name].times
        whole = sum(products.values())
        return {name: count / whole for name, count in products.items()} if whole else {}

    def agrees(self, names: tuple[str, ...], graph: FloatGraph) -> bool:
        """Whether a graph computes what modules do that follow one another.

        Of several, what is around them must not notice either: that it uses what they give each other, for example.
        """
        with torch.no_grad():
            found = list(run(graph, self.inputs[names[0]].to(torch.float32)))
        if len(names) == 1:
            return _close(found, self.results[names[0]])
        modules, around = dict(self.model.named_modules()), []
        result = found[0].to(self.inputs[names[0]].dtype)
        parent = names[0].rpartition(".")[0]
        with ExitStack() as stack, watched(self.model, {}, lambda name, x, _: None):
            for name in names:
                stack.callback(delattr, modules[name], "forward")
                modules[name].forward = (lambda x: result) if name == names[0] else (lambda x: x)
            hook = modules[parent].register_forward_hook(lambda *call: around.extend(_tensors(call[2])))
            stack.callback(hook.remove)
            try:
                forward(self.model, self.batch)
            except Exception:  # whatever a user's code raises when it meets another tensor than it expects
                return False
        return _close(around, self.results[parent])


def _shown(batch: InputBatch) -> str:
    """Shapes and types of what a batch holds."""
    tensors = [leaf for leaf in tree_leaves([batch.args, batch.kwargs]) if isinstance(leaf, Tensor)]
    return ", ".join(f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in tensors)


def _tensors(result: Any) -> list[Tensor]:
    """Copies of the tensors that a module returned, in float32."""
    return [leaf.detach().to(torch.float32, copy=True) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def _close(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """Whether they are equal but for rounding (of 16 bits, where the model has so many)."""
    if len(found) != len(wanted):
        return False
    for ours, theirs in zip(found, wanted, strict=True):
        if ours.shape != theirs.shape or float((ours - theirs).norm()) > 0.02 * float(theirs.norm()) + 1e-6:
            return False
    return True


def _few(batch: InputBatch) -> InputBatch:
    """The first images of a batch, where it is one of images alone."""
    given = [*batch.args, *batch.kwargs.values()]
    if not given or not all(isinstance(x, Tensor) and x.dim() == 4 for x in given):
        return batch
    args = tuple(x[:_IMAGES] for x in batch.args)
    return replace(batch, args=args, kwargs={name: x[:_IMAGES] for name, x in batch.kwargs.items()})
