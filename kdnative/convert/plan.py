"""What is to become of a model, as data: :func:`kdnative.convert.decide` says it, ``build`` and ``apply`` do it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kdnative.convert.refusals import Refusal
from kdnative.formats.convnet.graph import Graph
from kdnative.formats.scheme import Scheme

__all__ = ["Decision", "Network", "Networks", "Plan", "Region"]


@dataclass(frozen=True)
class Decision:
    """What is to become of one module.

    Args:
        name: its path in the model; "" is the model itself.
        kind: name of its class.
        action: "converted" (a native module takes its place), "fused" (it is part of a region) or "kept".
        scheme: of the weights, None where none are quantized. Of a layer that could be native and is kept all the same
            (the float one is faster), the scheme that was asked for.
        refusal: why it is kept; None of the others.
        explicit: a pattern other than ``*`` asks for a scheme.
        note: what the report says of it besides.
    """

    name: str
    kind: str
    action: str
    scheme: Scheme | None = None
    refusal: Refusal | None = None
    explicit: bool = False
    note: str = ""

    @property
    def planned(self) -> Scheme:
        """The scheme of a module that gets one."""
        if self.scheme is None:
            raise ValueError(f"{self.name or 'the model'} has no scheme in the plan")
        return self.scheme


@dataclass(frozen=True)
class Region:
    """Modules whose place one native operator takes.

    Args:
        root: the module that it replaces.
        modules: every module that it covers, the root first. Those outside of the root become ``nn.Identity``.
        converter: name of the :class:`kdnative.convert.RegionConverter` that builds it.
        spec: what the operator is made of besides the weights, as its converter describes it.
        keeps_parameters: whether it has float parameters besides.
    """

    root: str
    modules: tuple[str, ...]
    converter: str
    spec: Mapping[str, Any]
    keeps_parameters: bool = False


@dataclass(frozen=True)
class Network:
    """A part of a model whose convolutions, and all between them, become one operator.

    Args:
        root: the module that it replaces.
        modules: every module that it covers, the root first.
        graph: what calibration made of it.
    """

    root: str
    modules: tuple[str, ...]
    graph: Graph


@dataclass(frozen=True)
class Networks:
    """What calibration made of a model's convolutions.

    Args:
        parts: by their roots.
        refusals: why other convolutions stay in float, by their names.
    """

    parts: Mapping[str, Network]
    refusals: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """Decisions for every module that a report has a row for, in the order of the model; and the regions.

    Nothing in it belongs to the model that it was made for: a plan made on the meta device serves for a model with
    values.
    """

    decisions: tuple[Decision, ...]
    regions: tuple[Region, ...]

    def __getitem__(self, name: str) -> Decision:
        return next(decision for decision in self.decisions if decision.name == name)

    def impossible(self) -> tuple[Decision, ...]:
        """What was asked for by name and can't be done."""
        return tuple(d for d in self.decisions if d.explicit and d.refusal is not None)

    def needing(self, what: str) -> tuple[Decision, ...]:
        """What is kept until something is known, such as "ranges"."""
        return tuple(d for d in self.decisions if d.refusal is not None and d.refusal.needs == what)

    def check(self, awaiting: Collection[Decision] = ()) -> None:
        """ValueError when something that was asked for by name can't be done; what is ``awaiting`` may be later."""
        refused = {d.name: d.refusal for d in self.impossible() if d.refusal is not None and d not in awaiting}
        if refused:
            raise ValueError(nothing_converted(refused))


def nothing_converted(refused: Mapping[str, Refusal]) -> str:
    """The text of an error that lists every case."""
    lines = (f"  {name or '(model)'}: {refusal}" for name, refusal in refused.items())
    return (
        "nothing was converted, because these modules can't be converted as requested (leave them in float "
        "with keep=[...]):\n" + "\n".join(lines)
    )
