"""The largest parts of a model that are networks of convolutions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from kdnative.cnn.floats import FloatGraph
from kdnative.cnn.recording import ModuleCall, record
from kdnative.cnn.tracing import image_size, trace_recorded
from kdnative.models.layer import Unsupported

__all__ = ["Judge", "Refuse", "Regions", "convolutions", "regions"]

Refuse = Callable[[str, nn.Module], "str | None"]
"""Why a module, by its name, may be no part whatever it computes; None if it may."""

Judge = Callable[[tuple[str, ...], FloatGraph], "str | None"]
"""Why modules that follow one another (or one alone) are to be no part, by their graph; None if they may be one."""


@dataclass
class Regions:
    """Parts of a model.

    Args:
        graphs: of the parts, by the names of modules; the empty name is the whole model. None lies in another.
        left: of the modules with convolutions that are no such part: why, by their names.
        chains: of each part, the modules that it is made of, which follow one another: mostly that one alone.
    """

    graphs: dict[str, FloatGraph] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)


def regions(
    model: nn.Module,
    example: Tensor | Sequence[int] | None = None,
    *,
    calls: Mapping[str, ModuleCall] | None = None,
    follows: Mapping[str, str] | None = None,
    refuse: Refuse = lambda name, module: None,
    judge: Judge = lambda names, graph: None,
) -> Regions:
    """The whole model if it is a network of convolutions, or else the largest of its modules that are.

    A module is one if it takes one map and returns one tensor, is called once, and holds a convolution. The model
    itself may return several. Modules side by side that follow one another are one part.

    Args:
        model, example: as `trace` has them.
        calls: how modules are called, by their names, in the place of an example.
        follows: which module gives the very tensor that a module takes, where both are children of the same.
        refuse, judge: see `Refuse` and `Judge`.
    """
    if calls is None:
        if example is None:
            raise TypeError("regions takes an example, or how modules are called")
        size = image_size(example)
        calls = {**record(model, size).calls, "": ModuleCall(1, size, "Tensor")}
    search = _Search(calls, follows or {}, refuse, judge)
    search.find(model)
    return search.found


@dataclass
class _Search:
    calls: Mapping[str, ModuleCall]
    follows: Mapping[str, str]
    refuse: Refuse
    judge: Judge
    found: Regions = field(default_factory=Regions)

    def find(self, model: nn.Module) -> None:
        waiting = [("", model)]
        while waiting:
            name, module = waiting.pop(0)
            try:
                self._part((name,), module)
            except Unsupported as error:
                if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                    self.found.left[name] = str(error)
                taken = self._chained(name, module)
                waiting[:0] = [child for child in _children(module, name) if child[0] not in taken and _has(child[1])]

    def _part(self, names: tuple[str, ...], module: nn.Module) -> None:
        """Adds a part; Unsupported where it is none."""
        graph = self._graph(names[0], module)
        if not convolutions(graph):
            raise Unsupported(
                "its convolutions do not contribute to its result" if _has(module) else "it has no convolution"
            )
        if (why := self.judge(names, graph)) is not None:
            raise Unsupported(why)
        self.found.graphs[names[0]], self.found.chains[names[0]] = graph, names

    def _graph(self, name: str, module: nn.Module) -> FloatGraph:
        """The graph of what takes the input of a module; Unsupported where there is none."""
        if (why := self.refuse(name, module)) is not None:
            raise Unsupported(why)
        call = self.calls.get(name)
        if call is not None and not name:
            call = replace(call, result="Tensor")  # several are fine for the model itself
        why = "it isn't called, or fails" if call is None else call.why_no_part()
        if why or call is None or call.shape is None:
            raise Unsupported(why)
        recording = record(module, image_size(call.shape))
        if name and recording.changes_image:
            raise Unsupported("it changes its input in place, and other modules may read that input")
        return trace_recorded(module, recording)

    def _chained(self, name: str, module: nn.Module) -> set[str]:
        """Adds what children make together that follow one another, and says which of them are taken."""
        taken: set[str] = set()
        children = dict(_children(module, name))
        for chain in chains(children, self.follows):
            for names in self._pieces(chain, children):
                together = nn.Sequential(OrderedDict((each.rpartition(".")[2], children[each]) for each in names))
                try:
                    self._part(names, together)
                except Unsupported:
                    continue  # each by itself, then
                taken.update(names)
        return taken

    def _pieces(self, chain: Sequence[str], children: Mapping[str, nn.Module]) -> Iterator[tuple[str, ...]]:
        """What is between children of a chain that can be in no network: two and more, the first with convolutions."""
        piece: list[str] = []
        for child in (*chain, None):
            if child is not None and self._possible(child, children[child]):
                piece += [child] if piece or _has(children[child]) else []
                continue
            if len(piece) > 1:
                yield tuple(piece)
            piece = []

    def _possible(self, name: str, module: nn.Module) -> bool:
        try:
            self._graph(name, module)
        except Unsupported:
            return False
        return True


def chains(names: Iterable[str], follows: Mapping[str, str]) -> list[list[str]]:
    """Names in rows, each behind the one that it follows."""
    found: list[list[str]] = []
    waiting = dict.fromkeys(names)
    next_of = {before: name for name, before in follows.items() if name in waiting and before in waiting}
    for name in [name for name in waiting if follows.get(name) not in waiting]:
        chain = [name]
        while chain[-1] in next_of:
            chain.append(next_of[chain[-1]])
        found.append(chain)
    return found


def convolutions(graph: FloatGraph) -> list[str]:
    """Names of the nodes that are more than a linear layer or a normalization."""
    weights = {name: source.weight for name, source in graph.sources.items()}
    return [name for name, weight in weights.items() if weight is not None and weight.dim() == 4]


def _children(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    for child_name, child in module.named_children():
        yield (f"{name}.{child_name}" if name else child_name), child


def _has(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())
