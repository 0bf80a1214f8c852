"""Which dimensions of a model belong together: attention heads, feed-forward neurons, stacks of layers.

Encoders of Hugging Face transformers are recognised by the names of their submodules, not by class, so subclasses and
models that other code has shrunk are found too. In any model, chains of linears in an `nn.Sequential` are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["Attention", "FeedForward", "Graph", "Stack", "find_graph"]


@dataclass(frozen=True)
class Attention:
    """One multi-head attention. Outputs of q, k, v and inputs of `out` are heads x head_size, head by head."""

    name: str
    module: nn.Module
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    out: nn.Linear
    names: tuple[str, str, str, str]
    heads_attribute: str
    width_attribute: str

    @property
    def heads(self) -> int:
        return getattr(self.module, self.heads_attribute)

    @property
    def head_size(self) -> int:
        return self.module.attention_head_size


@dataclass(frozen=True)
class FeedForward:
    """Neurons between two linears: outputs of `up`, inputs of `down`, nothing but elementwise functions in between."""

    name: str
    up: nn.Linear
    down: nn.Linear
    names: tuple[str, str]

    @property
    def width(self) -> int:
        return self.up.out_features


@dataclass
class Stack:
    """The layers of one encoder, and what has to agree with them.

    Args:
        owner: the module whose ``layer`` is the `nn.ModuleList`.
        config: the Hugging Face configuration, or None.
        shared_bias: an `nn.Embedding` [buckets, heads] added to the scores of every layer (MPNet): all layers must
            then keep the same heads.
    """

    name: str
    owner: nn.Module
    config: Any
    attentions: list[Attention] = field(default_factory=list)
    feed_forwards: list[FeedForward] = field(default_factory=list)
    shared_bias: nn.Embedding | None = None

    @property
    def layers(self) -> nn.ModuleList:
        return self.owner.layer


@dataclass
class Graph:
    """Everything that can be pruned in a model."""

    stacks: list[Stack]
    feed_forwards: list[FeedForward]  # those outside stacks

    @property
    def attentions(self) -> list[Attention]:
        return [attention for stack in self.stacks for attention in stack.attentions]

    @property
    def all_feed_forwards(self) -> list[FeedForward]:
        return [ffn for stack in self.stacks for ffn in stack.feed_forwards] + self.feed_forwards


@dataclass(frozen=True)
class _Naming:
    attention: str  # the module that splits heads, inside a layer
    q: str  # relative to the attention
    k: str
    v: str
    out: str  # relative to the layer, as the two below
    up: str
    down: str
    heads: str = "num_attention_heads"
    width: str = "all_head_size"


_NAMINGS = (
    # BERT, MiniLM, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA
    _Naming("attention.self", "query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"),
    _Naming("attention.attn", "q", "k", "v", "attention.attn.o", "intermediate.dense", "output.dense"),  # MPNet
    _Naming(
        "attention", "q_lin", "k_lin", "v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2", "n_heads", "dim"
    ),  # DistilBERT
)

_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.Mish,
    nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.Softplus, nn.LogSigmoid, nn.Softsign, nn.Identity, nn.Dropout,
)  # fmt: skip


def find_graph(model: nn.Module) -> Graph:
    """What can be pruned in `model`, in the order of its modules.

    Raises:
        ValueError: an encoder was recognised but holds something that pruning would break, such as linears that layers
            share.
    """
    stacks = []
    for name, module in model.named_modules():
        layers = getattr(module, "layer", None)
        if isinstance(layers, nn.ModuleList) and len(layers):
            naming = next((n for n in _NAMINGS if all(_fits(layer, n) for layer in layers)), None)
            if naming:
                stacks.append(_stack(model, name, module, naming))
    graph = Graph(stacks, [])
    for name, module in model.named_modules():
        if type(module) is nn.Sequential:
            graph.feed_forwards.extend(_chains(name, module))
    _refuse_shared(graph)
    return graph


def _stack(model: nn.Module, name: str, owner: nn.Module, naming: _Naming) -> Stack:
    stack = Stack(
        name, owner, _nearest_config(model, name), shared_bias=getattr(owner, "relative_attention_bias", None)
    )
    for index, layer in enumerate(owner.layer):
        prefix = f"{name}.layer.{index}".lstrip(".")
        attention = layer.get_submodule(naming.attention)
        if hasattr(attention, "distance_embedding"):
            raise ValueError(f"{prefix}.{naming.attention} has relative position embeddings per head: not supported")
        names = [f"{naming.attention}.{part}" for part in (naming.q, naming.k, naming.v)] + [naming.out]
        stack.attentions.append(
            Attention(
                f"{prefix}.{naming.attention}",
                attention,
                *(layer.get_submodule(n) for n in names),
                names=tuple(f"{prefix}.{n}" for n in names),
                heads_attribute=naming.heads,
                width_attribute=naming.width,
            )
        )
        stack.feed_forwards.append(
            FeedForward(
                f"{prefix}.{naming.up.rpartition('.')[0]}",
                layer.get_submodule(naming.up),
                layer.get_submodule(naming.down),
                (f"{prefix}.{naming.up}", f"{prefix}.{naming.down}"),
            )
        )
    return stack


def _fits(layer: nn.Module, naming: _Naming) -> bool:
    paths = [f"{naming.attention}.{part}" for part in (naming.q, naming.k, naming.v)]
    try:
        linears = [layer.get_submodule(path) for path in (*paths, naming.out, naming.up, naming.down)]
        attention = layer.get_submodule(naming.attention)
    except AttributeError:
        return False
    attributes = (naming.heads, naming.width, "attention_head_size")
    return all(isinstance(m, nn.Linear) for m in linears) and all(hasattr(attention, a) for a in attributes)


def _chains(name: str, sequence: nn.Sequential) -> Iterator[FeedForward]:
    """Pairs of neighbouring linears with only elementwise functions between them."""
    previous: tuple[str, nn.Linear] | None = None
    for key, module in sequence.named_children():
        path = f"{name}.{key}".lstrip(".")
        if isinstance(module, nn.Linear):
            if previous and previous[1].out_features == module.in_features:
                yield FeedForward(name or "(model)", previous[1], module, (previous[0], path))
            previous = (path, module)
        elif not isinstance(module, _ELEMENTWISE):
            previous = None


def _nearest_config(model: nn.Module, name: str) -> Any:
    """The configuration of the module `name`, or of the innermost module around it that has one."""
    path = name.split(".") if name else []
    for depth in range(len(path), -1, -1):
        config = getattr(model.get_submodule(".".join(path[:depth])), "config", None)
        if config is not None:
            return config
    return None


def _refuse_shared(graph: Graph) -> None:
    """Two uses of one weight would have to lose the same rows and columns; that is not known here."""
    named = [(n, m) for a in graph.attentions for n, m in zip(a.names, (a.q, a.k, a.v, a.out), strict=True)]
    named += [(n, m) for f in graph.all_feed_forwards for n, m in zip(f.names, (f.up, f.down), strict=True)]
    first: dict[int, str] = {}
    for name, linear in named:
        other = first.setdefault(id(linear.weight), name)
        if other != name:  # the middle of a chain of three comes twice under one name, with different dimensions
            raise ValueError(f"{name} and {other} share one weight; layers that share weights can't be pruned")
