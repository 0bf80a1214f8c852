"""The largest parts of a model that are networks of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from kdnative.cnn.floats import FloatGraph
from kdnative.cnn.recording import ModuleCall, record
from kdnative.cnn.tracing import image_size, trace
from kdnative.models.layer import Unsupported

__all__ = ["Refuse", "Regions", "regions"]

Refuse = Callable[[str, nn.Module], "str | None"]
"""Why a module, by its name, may be no part whatever it computes; None if it may."""


@dataclass
class Regions:
    """Parts of a model.

    Args:
        graphs: of the parts, by the names of modules; the empty name is the whole model. None lies in another.
        left: of the modules with convolutions that are no such part: why, by their names.
    """

    graphs: dict[str, FloatGraph] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def regions(
    model: nn.Module,
    example: Tensor | Sequence[int] | None = None,
    *,
    calls: Mapping[str, ModuleCall] | None = None,
    refuse: Refuse = lambda name, module: None,
    least: int = 1,
) -> Regions:
    """The whole model if it is a network of convolutions, or else the largest of its modules that are.

    A module is one if it takes one map and returns one tensor, is called once, and holds a convolution. The model
    itself may return several.

    Args:
        model, example: as `trace` has them.
        calls: how modules are called, by their names, in the place of an example.
        refuse: see `Refuse`.
        least: fewer convolutions make no part.
    """
    if calls is None:
        if example is None:
            raise TypeError("regions takes an example, or how modules are called")
        size = image_size(example)
        calls = {**record(model, size).calls, "": ModuleCall(1, size, "Tensor")}
    found, waiting = Regions(), [("", model)]
    while waiting:
        name, module = waiting.pop(0)
        try:
            if (why := refuse(name, module)) is not None:
                raise Unsupported(why)
            found.graphs[name] = _part(name, module, calls.get(name), least)
        except Unsupported as error:
            if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                found.left[name] = str(error)
            waiting[:0] = _children(module, name)
    return found


def _part(name: str, module: nn.Module, call: ModuleCall | None, least: int) -> FloatGraph:
    """The graph of a module; Unsupported where it is no part."""
    if call is not None and not name:
        call = replace(call, result="Tensor")  # several are fine for the model itself
    why = "it isn't called, or fails" if call is None else call.why_no_part()
    if why or call is None or call.shape is None:
        raise Unsupported(why)
    graph = trace(module, call.shape)
    weights = [source.weight for source in graph.sources.values()]
    count = sum(weight is not None and weight.dim() == 4 for weight in weights)  # those of linear layers have two
    if not count:
        has = any(isinstance(part, nn.Conv2d) for part in module.modules())
        raise Unsupported("its convolutions take no part in its result" if has else "it has no convolution")
    if count < least:
        raise Unsupported("it has a single convolution, and codes for its input and result would cost what it gains")
    return graph


def _children(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Those that hold convolutions, in their order."""
    for child_name, child in module.named_children():
        if any(isinstance(m, nn.Conv2d) for m in child.modules()):
            yield (f"{name}.{child_name}" if name else child_name), child
