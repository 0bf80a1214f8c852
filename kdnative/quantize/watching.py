"""Watching a model at work: what its linears are given, and which of them are given the very same."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.quantize.inputs import InputBatch, InputBatches
from kdnative.quantize.linears import LinearSite
from kdnative.quantize.progress import Progress
from kdnative.shown import listed

__all__ = ["Enough", "Group", "OnInput", "find_groups", "forward", "watched"]

OnInput = Callable[[str, Tensor, Tensor], None]
"""Name of a linear; the tensor that it was given, for its identity; the same with the batch in its first dimension."""


class Enough(BaseException):
    """Ends a forward from within, where nothing that follows is of interest."""


@dataclass(frozen=True)
class Group:
    """Linears that were given the very same tensors in every forward, such as queries, keys and values.

    Args:
        names: in the order of the model.
        calls: how often each of them was called in each batch.
    """

    names: tuple[str, ...]
    calls: tuple[int, ...]


@contextmanager
def watched(model: nn.Module, sites: Mapping[str, LinearSite], on_input: OnInput) -> Iterator[None]:
    """Calls ``on_input`` whenever one of the linears is about to be called. The model is in eval mode meanwhile.

    Torch's attention, and its encoder layers, read weights of others without calling them when they may; that is
    switched off, for the whole process. Torch's attention never calls its output projection: it is given the identity
    in its place, and the projection is called on what comes out.
    """
    training = [module for module in model.modules() if module.training]

    def train_again() -> None:
        for module in training:
            module.training = True

    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        stack.callback(train_again)
        torch.backends.mha.set_fastpath_enabled(False)
        model.eval()
        for name, site in sites.items():
            if isinstance(site.module, nn.MultiheadAttention):
                _watch_attention(stack, name, site.module, on_input)
            else:
                _watch(stack, name, site.module, on_input)
        stack.enter_context(torch.no_grad())
        yield


def _watch(stack: ExitStack, name: str, module: nn.Module, on_input: OnInput) -> None:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next(iter((*args, *kwargs.values())))
        on_input(name, x, x)

    stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)


def _watch_attention(stack: ExitStack, name: str, attention: nn.MultiheadAttention, on_input: OnInput) -> None:
    projection, size = attention.out_proj, attention.embed_dim
    identity = nn.Linear(size, size, bias=False, device="meta")

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        three = [*args[:3], *(kwargs[key] for key in ("query", "key", "value")[len(args) :] if key in kwargs)]
        for x in {id(x): x for x in three}.values():
            on_input(name, x, x if attention.batch_first or x.dim() == 2 else x.transpose(0, 1))
        eye = torch.eye(size, dtype=projection.weight.dtype, device=projection.weight.device)
        identity.weight = nn.Parameter(eye, requires_grad=False)
        attention.out_proj = identity

    def after(_: nn.Module, args: tuple[Any, ...], result: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        attention.out_proj = projection
        x, weights = result
        if attention.batch_first or x.dim() == 2:
            return projection(x), weights
        return projection(x.transpose(0, 1)).transpose(0, 1), weights

    def restore() -> None:  # a forward that failed has not come to its end
        attention.out_proj = projection

    stack.callback(restore)
    stack.callback(attention.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(attention.register_forward_hook(after).remove)


def forward(model: nn.Module, batch: InputBatch, parameters: Mapping[str, Tensor] | None = None) -> None:
    """Runs a batch, with other values for some parameters of the model; the model keeps its own."""
    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    try:
        if parameters:
            module = _Caller(model)
            own = {f"model.{name}": value for name, value in parameters.items()}
            torch.func.functional_call(module, own, (batch, device), tie_weights=False, strict=False)
        else:
            batch.call(model, device)
    except Enough:
        pass


class _Caller(nn.Module):
    """A model whose call is that of a batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: InputBatch, device: torch.device) -> None:
        batch.call(self.model, device)


class Identities:
    """Numbers for tensors of one forward: equal for the same object with the same values."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
        self._next = 0

    def of(self, x: Tensor) -> int:
        version = 0 if x.is_inference() else x._version
        found = self._known.get(id(x))  # an id is used again when its object is gone
        if found is None or found[0]() is not x or found[1] != version:
            found = self._known[id(x)] = (weakref.ref(x), version, self._next)
            self._next += 1
        return found[2]


def find_groups(
    model: nn.Module, sites: Mapping[str, LinearSite], batches: InputBatches, progress: Progress | None = None
) -> list[Group]:
    """Runs all batches, and says which linears were given the same, in the order in which they were first called.

    ``progress`` is told of every batch.

    Raises:
        ValueError: a linear was never called.
    """
    seen: dict[str, list[tuple[int, ...]]] = {name: [] for name in sites}
    order: dict[str, None] = {}
    calls: dict[str, list[int]] = {}

    def on_input(name: str, x: Tensor, _: Tensor) -> None:
        order.setdefault(name)
        calls.setdefault(name, []).append(identities.of(x))

    with watched(model, sites, on_input):
        for number, batch in enumerate(batches.all):
            identities = Identities()
            calls.clear()
            forward(model, batch)
            for name in sites:
                seen[name].append(tuple(calls.get(name, ())))
            if progress is not None:
                progress("finding layers with shared inputs", number + 1, len(batches))
    if never := [name for name in sites if not any(seen[name])]:
        raise ValueError(
            f"{listed(never)} did not run on the calibration data: give batches that reach every layer, or "
            "leave these layers in float with keep="
        )
    groups: dict[tuple[tuple[int, ...], ...], list[str]] = {}
    for name in order:
        groups.setdefault(tuple(seen[name]), []).append(name)
    places = {name: place for place, name in enumerate(sites)}
    return [
        Group(tuple(sorted(names, key=places.__getitem__)), tuple(len(numbers) for numbers in key))
        for key, names in groups.items()
    ]
