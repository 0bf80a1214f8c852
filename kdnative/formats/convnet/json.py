"""A network as JSON: nodes without weights, and back. What is read may come from anywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from kdnative.formats.convnet.checks import check
from kdnative.formats.convnet.graph import (
    Add,
    Channels,
    Concat,
    Conv,
    Ending,
    Fixed,
    Graph,
    Input,
    Lookup,
    Multiply,
    Node,
    Pool,
    Range,
    Resize,
)
from kdnative.shown import shown

__all__ = ["from_json", "to_json"]

_KINDS: dict[str, type[Node]] = {
    cls.__name__.lower(): cls for cls in (Input, Conv, Pool, Add, Multiply, Concat, Channels, Lookup, Resize)
}
_MOST_NODES = 1000
_NODES_A_CONVOLUTION = 16
"""A file has at most this many nodes and so many for each convolution: these are bounded by their tensors."""


def to_json(graph: Graph) -> dict[str, Any]:
    """Nodes, outputs, flat and fixed; what has its usual value is left out, and so are the weights."""
    fixed = {} if graph.fixed is None else {"fixed": {"size": list(graph.fixed.size), "why": graph.fixed.why}}
    return {
        "nodes": [_plain_node(node) for node in graph.nodes],
        "outputs": list(graph.outputs),
        "flat": list(graph.flat),
        **fixed,
    }


def from_json(plain: Any) -> Graph:
    """The checked network that `to_json` wrote, without weights.

    Raises:
        ValueError: an entry is missing, unknown, or of another kind than it must be, or the network can't be run.
    """
    keys = {"nodes", "outputs", "flat"}
    _check_keys("the network", plain, keys, {*keys, "fixed"})
    nodes = plain["nodes"]
    if not isinstance(nodes, list):
        raise ValueError(f"the nodes of a network must be a list, not {shown(nodes)}")
    convolutions = sum(1 for node in nodes if isinstance(node, dict) and node.get("node") == "conv")
    if len(nodes) > _MOST_NODES + _NODES_A_CONVOLUTION * convolutions:
        raise ValueError(f"the network has {len(nodes)} nodes for {convolutions} convolutions")
    graph = Graph(
        nodes=tuple(_node(number, node) for number, node in enumerate(nodes)),
        outputs=_integers("outputs", plain["outputs"]),
        flat=tuple(_flag("flat", value) for value in _items("flat", plain["flat"])),
        fixed=_fixed(plain["fixed"]) if "fixed" in plain else None,
    )
    check(graph, weights=False)
    return graph


def _plain_node(node: Node) -> dict[str, Any]:
    plain: dict[str, Any] = {"node": type(node).__name__.lower()}
    for field in fields(node):
        value = getattr(node, field.name)
        if field.default is not MISSING and value == field.default:
            continue
        if isinstance(value, Ending):
            if value == Ending():
                continue
            value = {
                "activation": value.activation,
                "parameters": list(value.parameters),
                "before": _plain_range(value.before),
            }
        elif isinstance(value, Range):
            value = _plain_range(value)
        plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def _plain_range(range_: Range | None) -> list[float] | None:
    return None if range_ is None else [range_.scale, range_.zero_point]


def _node(number: int, plain: Any) -> Node:
    what = f"node {number}"
    kind = plain.get("node") if isinstance(plain, dict) else None
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ValueError(f"{what} must be a table whose 'node' is one of {', '.join(_KINDS)}, not {shown(plain)}")
    names = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(cls)}
    required = {name for name, needed in names.items() if needed}
    _check_keys(what, plain, {"node", *required}, {"node", *names})
    values = {name: _READ[name](f"{what}: {name}", plain[name]) for name in names if name in plain}
    return cls(**values)


def _fixed(plain: Any) -> Fixed:
    _check_keys("fixed", plain, {"size", "why"}, {"size", "why"})
    return Fixed(_pair("fixed: size", plain["size"]), _text("fixed: why", plain["why"]))


def _check_keys(what: str, plain: Any, required: set[str], allowed: set[str]) -> None:
    if not isinstance(plain, dict):
        raise ValueError(f"{what} must be a table, not {shown(plain)}")
    if missing := sorted(required - plain.keys()):
        raise ValueError(f"{what} lacks {', '.join(missing)}")
    if unknown := sorted(plain.keys() - allowed):
        raise ValueError(f"{what} has the entry {shown(unknown[0])}, which is not known; allowed: {sorted(allowed)}")


# -- values, each by the name of its field -----------------------------------------------------------------------------


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a text, not {shown(value)}")
    return value


def _flag(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{what} must be true or false, not {shown(value)}")
    return value


def _integer(what: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"{what} must be an integer from 0 to 2^31 - 1, not {shown(value)}")
    return value


def _real(what: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:  # an integer may be larger
        raise ValueError(f"{what} must be a finite number, not {shown(value)}")
    return float(value)


def _items(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, not {shown(value)}")
    return value


def _integers(what: str, value: Any) -> tuple[int, ...]:
    return tuple(_integer(what, item) for item in _items(what, value))


def _pair(what: str, value: Any) -> tuple[int, int]:
    items = _integers(what, value)
    if len(items) != 2:
        raise ValueError(f"{what} must be two integers, not {shown(value)}")
    return items[0], items[1]


def _padding(what: str, value: Any) -> Any:
    """Of a convolution, four numbers or "same"; of a pooling, two. `check` knows which."""
    if value == "same":
        return value
    items = _integers(what, value)
    if len(items) not in (2, 4):
        raise ValueError(f"{what} must be 'same', or two or four integers, not {shown(value)}")
    return items


def _range(what: str, value: Any) -> Range | None:
    if value is None:
        return None
    items = _items(what, value)
    if len(items) != 2:
        raise ValueError(f"{what} must be null, or a scale and a zero point, not {shown(value)}")
    return Range(_real(what, items[0]), _integer(what, items[1]))


def _ending(what: str, value: Any) -> Ending:
    keys = {"activation", "parameters", "before"}
    _check_keys(what, value, keys, keys)
    parameters = tuple(_real(what, item) for item in _items(what, value["parameters"]))
    return Ending(_text(what, value["activation"]), parameters, _range(what, value["before"]))


def _factor(what: str, value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    items = _items(what, value)
    if len(items) != 2:
        raise ValueError(f"{what} must be null or two numbers, not {shown(value)}")
    return _real(what, items[0]), _real(what, items[1])


def _size(what: str, value: Any) -> tuple[int, int] | None:
    return None if value is None else _pair(what, value)


_READ: dict[str, Callable[[str, Any], Any]] = {
    "name": _text,
    "inputs": _integers,
    "out": _range,
    "channels": _integer,
    "kernel": _pair,
    "stride": _pair,
    "padding": _padding,
    "dilation": _pair,
    "groups": _integer,
    "ending": _ending,
    "kind": _text,
    "adaptive": _flag,
    "ceil_mode": _flag,
    "count_include_pad": _flag,
    "order": _integers,
    "mode": _text,
    "size": _size,
    "factor": _factor,
    "align_corners": _flag,
}
