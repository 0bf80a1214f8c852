"""The codes of every map of a network, from what calibration saw of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from kdnative.cnn.floats import FloatGraph
from kdnative.cnn.observing import Observer
from kdnative.cnn.running import activate
from kdnative.cnn.spans import Span, flat_ends, range_of, span_of
from kdnative.formats.convnet.graph import (
    Add,
    Channels,
    Concat,
    Conv,
    Ending,
    Input,
    Lookup,
    Node,
    Pool,
    Range,
    Resize,
)

__all__ = ["Observations", "Ranges", "ending_of", "is_real", "ranges_of", "wants_before"]

_LIMITS = ("none", "relu", "relu6")
"""Endings without a table: they need no range before them."""

GATE = Range(1 / 255, 0)
"""Of sigmoids, whose values are within [0, 1] whatever calibration sees."""

SHARED_WITHIN = 2.0
"""Maps side by side share one range, which makes joining them free, unless that costs one of them more than a bit."""


@dataclass
class Observations:
    """What was seen of each node's result, and of what functions behind nodes were applied to."""

    results: list[Observer]
    before: dict[int, Observer] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranges:
    """Of each node's result (None: real numbers), and before those endings that are tables."""

    results: tuple[Range | None, ...]
    before: dict[int, Range] = field(default_factory=dict)


def ranges_of(graph: FloatGraph, seen: Observations, method: str) -> Ranges:
    """The codes of every map.

    Max pooling, channels in another order and resizing keep the range of what they are given. Maps that a `Concat`
    joins share theirs where they are about as wide. Images always have the range from their smallest to their largest
    value: there are no outliers in them.

    Args:
        graph: the network. seen: of each node.
        method: of `kdnative.cnn.spans.METHODS`.
    """
    spans = [
        span_of(observer, "minmax" if isinstance(node, Input) else method)
        for node, observer in zip(graph.nodes, seen.results, strict=True)
    ]
    shared = _shared(graph.nodes, spans)
    readers = graph.readers()
    results: list[Range | None] = []
    for number, node in enumerate(graph.nodes):
        alone = sum(span is shared[number] for span in shared) == 1
        if is_real(node, readers[number]):
            results.append(None)
        elif alone and ending_of(node).activation in ("sigmoid", "hard_sigmoid"):
            results.append(GATE)
        else:
            results.append(range_of((shared[number].low, shared[number].high)))
    before = {}
    for number, observer in seen.before.items():
        result = results[number]
        assert result is not None
        function = partial(activate, ending=ending_of(graph.nodes[number]))
        before[number] = range_of(flat_ends(function, span_of(observer, method), result.scale))
    return Ranges(tuple(results), before)


def is_real(node: Node, readers: Sequence[int]) -> bool:
    """Whether a node gives real numbers: a convolution whose result leaves the network as it is, and only that."""
    plain = isinstance(node, Conv) and node.ending.activation == "none" and len(node.inputs) == 1
    return plain and set(readers) == {-1}


def ending_of(node: Node) -> Ending:
    """The activation behind a node; one that does nothing where it can have none."""
    return node.ending if isinstance(node, Conv | Add | Lookup) else Ending()


def wants_before(node: Node) -> bool:
    """Whether the activation of a node is a table, of codes in a range of its own.

    A convolution computes hard-swish, and a `Lookup` is a table of its input's codes.
    """
    activation = ending_of(node).activation
    itself = isinstance(node, Lookup) or isinstance(node, Conv) and activation == "hard_swish"
    return activation not in _LIMITS and not itself


@dataclass(eq=False)
class _Shared:
    """A span that some maps share, and the width of the narrowest of them by itself."""

    low: float
    high: float
    narrowest: float


def _shared(nodes: Sequence[Node], spans: Sequence[Span]) -> list[_Shared]:
    """The span of each node; nodes that share one have the same object."""
    found: list[_Shared] = []
    for node, (low, high) in zip(nodes, spans, strict=True):
        follows = isinstance(node, Channels | Resize) or (isinstance(node, Pool) and node.kind == "max")
        found.append(found[node.inputs[0]] if follows else _Shared(low, high, high - low))
    for number, node in enumerate(nodes):
        for read in node.inputs if isinstance(node, Concat) else ():
            one, other = found[number], found[read]
            low, high = min(one.low, other.low), max(one.high, other.high)
            narrowest = min(one.narrowest, other.narrowest)
            if one is not other and high - low <= narrowest * SHARED_WITHIN:
                both = _Shared(low, high, narrowest)
                found = [both if span is one or span is other else span for span in found]
    return found
