"""The largest parts of a model that are networks of convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from kdnative.cnn.floats import FloatGraph
from kdnative.cnn.recording import ModuleCall, record
from kdnative.cnn.tracing import image_size, trace, trace_recorded
from kdnative.models.layer import Unsupported

__all__ = ["Regions", "regions"]


@dataclass
class Regions:
    """Parts of a model.

    Args:
        graphs: of the parts, by the names of modules; the empty name is the whole model. None lies in another.
        left: of the modules with convolutions that are no such part: why, by their names.
    """

    graphs: dict[str, FloatGraph] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def regions(model: nn.Module, example: Tensor | Sequence[int]) -> Regions:
    """The whole model if it is a network of convolutions, or else the largest of its modules that are.

    A module is one if it takes one map and returns one tensor, is called once, and holds a convolution.

    Args:
        model, example: as `trace` has them.
    """
    found = Regions()
    recording = record(model, image_size(example))
    try:
        graph = trace_recorded(model, recording)
    except Unsupported as error:
        found.left[""] = str(error)
    else:
        if _has_convolution(graph):
            found.graphs[""] = graph
        else:
            found.left[""] = "it has no convolution"
        return found
    waiting = list(_children(model, ""))
    while waiting:
        name, module = waiting.pop(0)
        try:
            found.graphs[name] = _part(module, recording.calls.get(name))
        except Unsupported as error:
            if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                found.left[name] = str(error)
            waiting[:0] = _children(module, name)
    return found


def _part(module: nn.Module, call: ModuleCall | None) -> FloatGraph:
    why = "it isn't called, or fails" if call is None else call.why_no_part()
    if why or call is None or call.shape is None:
        raise Unsupported(why)
    graph = trace(module, call.shape)
    if not _has_convolution(graph):
        raise Unsupported("its convolutions take no part in its result")
    return graph


def _children(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Those that hold convolutions, in their order."""
    for child_name, child in module.named_children():
        if any(isinstance(m, nn.Conv2d) for m in child.modules()):
            yield (f"{name}.{child_name}" if name else child_name), child


def _has_convolution(graph: FloatGraph) -> bool:
    """Whether a node is more than a linear layer or a normalization."""
    weights = [source.weight for source in graph.sources.values()]
    return any(weight is not None and weight.dim() == 4 for weight in weights)
