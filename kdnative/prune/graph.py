"""Which dimensions of a model belong together: attention heads, feed-forward neurons, stacks of layers.

Layers and their parts are found by the table of families (:mod:`kdnative.models.families`). In any model, chains of
linears in an `nn.Sequential` are found too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from kdnative.models.family import NoSuchPart, find
from kdnative.models.reading import head_dim_of, is_gated
from kdnative.models.stacks import Stack, stacks

__all__ = ["Attention", "FeedForward", "Graph", "Layers", "Outputs", "find_graph", "linears_of"]


@dataclass(frozen=True)
class Outputs:
    """A linear whose outputs are units (heads, neurons), ``runs`` times after each other (queries, keys, values)."""

    name: str
    linear: nn.Linear
    runs: int = 1

    @property
    def width(self) -> int:
        return self.linear.out_features // self.runs


@dataclass(frozen=True)
class Attention:
    """One multi-head attention. Outputs of `inputs` and inputs of `out` are heads x head_size, head by head."""

    name: str
    module: nn.Module
    inputs: tuple[Outputs, ...]
    out: nn.Linear
    out_name: str
    head_size: int
    numbers: tuple[tuple[str, ...], tuple[str, ...]]  # attributes that hold how many heads there are, and their width

    @property
    def heads(self) -> int:
        return self.inputs[0].width // self.head_size


@dataclass(frozen=True)
class FeedForward:
    """Neurons between linears: outputs of `inputs`, inputs of `down`, only elementwise functions in between."""

    name: str
    inputs: tuple[Outputs, ...]
    down: nn.Linear
    down_name: str

    @property
    def width(self) -> int:
        return self.inputs[0].width


@dataclass
class Layers:
    """The layers of one stack, and what has to agree with them.

    Args:
        attentions: one a layer; none where heads have to stay.
        shared_bias: an `nn.Embedding` [buckets, heads] added to the scores of every layer (MPNet): all layers must
            then keep the same heads.
    """

    stack: Stack
    attentions: list[Attention] = field(default_factory=list)
    feed_forwards: list[FeedForward] = field(default_factory=list)
    shared_bias: nn.Embedding | None = None

    def __len__(self) -> int:
        return len(self.stack.container)


@dataclass
class Graph:
    """Everything that can be pruned in a model, and in words what can't."""

    stacks: list[Layers]
    feed_forwards: list[FeedForward]  # those outside stacks
    obstacles: list[str]

    @property
    def attentions(self) -> list[Attention]:
        return [attention for stack in self.stacks for attention in stack.attentions]

    @property
    def all_feed_forwards(self) -> list[FeedForward]:
        return [ffn for stack in self.stacks for ffn in stack.feed_forwards] + self.feed_forwards


_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.Mish,
    nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.Softplus, nn.LogSigmoid, nn.Softsign, nn.Identity, nn.Dropout,
)  # fmt: skip


def find_graph(model: nn.Module) -> Graph:
    """What can be pruned in `model`, in the order of its modules.

    Raises:
        ValueError: layers were recognised but hold something that pruning would break, such as linears that layers
            share.
    """
    graph = Graph([], [], [])
    for stack in stacks(model):
        try:
            graph.stacks.append(_layers(stack))
        except NoSuchPart as error:
            kind = type(stack.layers[0]).__name__
            graph.obstacles.append(f"{stack.name} holds {kind}, which lacks parts of {stack.family.name}: {error}")
    inside = {id(ffn.down) for ffn in graph.all_feed_forwards}
    for name, module in model.named_modules():
        if type(module) is nn.Sequential:
            graph.feed_forwards.extend(ffn for ffn in _chains(name, module) if id(ffn.down) not in inside)
    _refuse_shared(graph)
    return graph


def _layers(stack: Stack) -> Layers:
    row = stack.family
    relative = row.base and row.base.relative
    found = Layers(stack, shared_bias=getattr(stack.owner, relative, None) if relative else None)
    for key, layer in stack.container.named_children():
        prefix = f"{stack.name}.{key}."
        if not row.heads_obstacle:
            found.attentions.append(_attention(stack, layer, prefix))
        up, gate = find(layer, row.up), find(layer, row.gate)
        joined = gate is None and is_gated(row, layer)
        inputs = [_outputs(prefix, part, 2 if joined else 1) for part in (gate, up) if part is not None]
        down_path, down = find(layer, row.down)
        name = prefix + (up[0].rpartition(".")[0] or up[0])
        found.feed_forwards.append(FeedForward(name, tuple(inputs), _linear(down_path, down), prefix + down_path))
    return found


def _attention(stack: Stack, layer: nn.Module, prefix: str) -> Attention:
    row = stack.family
    assert isinstance(row.qkv, tuple)  # otherwise heads stay
    path, module = find(layer, row.attention)
    if hasattr(module, "distance_embedding"):
        raise ValueError(f"{prefix}{path} has relative position embeddings per head: not supported")
    runs = 3 // len(row.qkv)
    inputs = tuple(_outputs(f"{prefix}{path}.", find(module, each), runs) for each in row.qkv)
    out_path, out = find(layer, row.output)
    head_size = head_dim_of(row, module, inputs[0].width)
    return Attention(
        prefix + path, module, inputs, _linear(out_path, out), prefix + out_path, head_size, (row.heads, row.width)
    )


def _outputs(prefix: str, part: tuple[str, nn.Module], runs: int) -> Outputs:
    return Outputs(prefix + part[0], _linear(*part), runs)


def _linear(path: str, module: nn.Module) -> nn.Linear:
    if not isinstance(module, nn.Linear):
        raise NoSuchPart(f"{path} is a {type(module).__name__}, not an nn.Linear")
    return module


def _chains(name: str, sequence: nn.Sequential) -> Iterator[FeedForward]:
    """Pairs of neighbouring linears with only elementwise functions between them."""
    previous: tuple[str, nn.Linear] | None = None
    for key, module in sequence.named_children():
        path = f"{name}.{key}".lstrip(".")
        if isinstance(module, nn.Linear):
            if previous and previous[1].out_features == module.in_features:
                yield FeedForward(name or "(model)", (Outputs(*previous),), module, path)
            previous = (path, module)
        elif not isinstance(module, _ELEMENTWISE):
            previous = None


def _refuse_shared(graph: Graph) -> None:
    """Two uses of one weight would have to lose the same rows and columns; that is not known here."""
    first: dict[int, str] = {}
    for name, linear, _ in linears_of(graph):
        other = first.setdefault(id(linear.weight), name)
        if other != name:  # the middle of a chain of three comes twice under one name, with different dimensions
            raise ValueError(f"{name} and {other} share one weight; layers that share weights can't be pruned")


def linears_of(graph: Graph) -> Iterator[tuple[str, nn.Linear, str]]:
    """Name, module and what shrinks it ("heads" or "ffn") of every linear that pruning may shrink."""
    for attention in graph.attentions:
        yield from ((each.name, each.linear, "heads") for each in attention.inputs)
        yield attention.out_name, attention.out, "heads"
    for ffn in graph.all_feed_forwards:
        yield from ((each.name, each.linear, "ffn") for each in ffn.inputs)
        yield ffn.down_name, ffn.down, "ffn"
