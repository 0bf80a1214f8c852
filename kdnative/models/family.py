"""What a family of models is: where its layers keep their parts, as data; and the families that are known.

A family says where things live as dotted paths. ``"a.b|a.c"`` takes the first that exists, and a path that ends with
``?`` may be missing. What no path can say is a small named function (:mod:`kdnative.models.hooks`). Nothing here
imports a model library: a family is recognised by the names and the origin of its classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = [
    "BaseModel",
    "Family",
    "NoSuchPart",
    "add",
    "families",
    "family_of",
    "find",
    "need",
    "register",
    "unregister",
]

_PATH = re.compile(r"\w+(\.\w+)*(\|\w+(\.\w+)*)*\??")


class NoSuchPart(AttributeError):
    """A model lacks a part that its family says it has."""


@dataclass(frozen=True)
class BaseModel:
    """Where a base model keeps what is around its layers. All paths are relative to it, unless they say otherwise.

    Args:
        layers: the container of the layers.
        word, position, token_type, norm: the tables of embeddings and the LayerNorm over their sum.
        final_norm: the LayerNorm after the last layer.
        pooler: a module with a linear ``dense``, and nn.Tanh or no ``activation``.
        padding_id: the id that positions are counted from; without it a token's position is its column.
        relative: the table of biases by distance (buckets x heads), relative to the module that holds ``layers``, and
            the distance where it saturates.
        positions: for positions that layers compute: ``positions(model)`` -> window (columns to either side, or None)
            and base of the rotary positions (or None) of each layer.
        check: ``check(model)`` raises Unsupported where a model does something that no path shows.
    """

    layers: str
    word: str = "embeddings.word_embeddings"
    position: str | None = "embeddings.position_embeddings"
    token_type: str | None = "embeddings.token_type_embeddings?"
    norm: str = "embeddings.LayerNorm"
    final_norm: str | None = None
    pooler: str | None = "pooler?"
    padding_id: str | None = None
    relative: str | None = None
    relative_distance: int = 0
    positions: Callable[[nn.Module], list[tuple[int | None, float | None]]] | None = None
    check: Callable[[nn.Module], None] | None = None

    def __post_init__(self) -> None:
        names = ("layers", "word", "position", "token_type", "norm", "final_norm", "pooler", "padding_id", "relative")
        _check_paths(self, names, optional=set(names) - {"layers", "word", "norm"})


@dataclass(frozen=True, eq=False)
class Family:
    """Layers that keep their parts in the same places. Paths are relative to a layer, unless they say otherwise.

    Fusing (`kdnative.convert_`), structured pruning and `kdnative.models.layers_of` read these.

    Args:
        name: of the family, for messages.
        layers: names of the classes of its layers. They take hidden states first and return hidden states.
        origin: the module that defines them, or a package around it.
        attention: the module that computes attention.
        qkv: three linears, or one with the outputs of queries, keys and values after each other; relative to
            ``attention``. Empty: ``attention`` is an nn.MultiheadAttention. Or a function of ``attention`` that gives
            named linears, and the parameters that these were put together from.
        output: the linear after attention.
        up, gate, down: the linears of the feed-forward network; ``gate`` is the one that the activation is applied to.
        gated: whether ``up`` holds both, the gate in the first half of its outputs; or a function of the layer.
        activation: the module between ``up`` and ``down``, or a function of torch that the layer calls.
        norm: "pre" where a LayerNorm is before attention and one before the feed-forward network, "post" where they
            are after the sums behind either; or a function of the layer that says which.
        attention_norm, ffn_norm: these two.
        attention_scale, ffn_scale: factors ``[H]`` of what either part adds to the hidden states.
        head_dim: the width of a head, relative to ``attention``; where it may be missing, it follows from ``heads``.
        scaling: the factor of the scores, relative to ``attention``; where missing, ``head_dim ** -0.5``.
        rotary: whether calls bring rotary positions; or a function of the layer.
        heads, width: attributes of ``attention`` that hold the number of heads and the width of all of them. Those that
            exist are set when heads are pruned.
        heads_stay: why heads can't be pruned, in words; empty where they can. They never can where ``qkv`` is empty or
            a function.
        layers_stay: why layers can't be taken away.
        depth, ffn_size: attributes of the configuration that hold the number of layers and of neurons.
        taken: ``taken(config, kept)`` -> what else a configuration has to say when only the layers ``kept`` (indices)
            are left; ValueError in words where it can't say it.
        alone: whether a layer can become one operator by itself (``forward(hidden_states, ...)`` -> hidden states, with
            masks as `kdnative.nn.EncoderLayer` takes them).
        check: ``check(layer)`` raises Unsupported where a layer does something that no path shows.
        by_parts: whether structured pruning takes layers of any class that have these parts.
        models: names of the classes of base models that become one operator, and of the outputs of transformers that
            they return; ``base`` says where these models keep the rest.
        checkpoint: ``model_type`` of models of transformers with such layers, of which a checkpoint may have one built:
            only after their constructors have been read, see :mod:`kdnative.checkpoint.allowed`.
    """

    name: str
    layers: tuple[str, ...]
    attention: str
    output: str
    up: str
    down: str
    attention_norm: str
    ffn_norm: str
    activation: str | Callable | nn.Module
    norm: str | Callable[[nn.Module], str] = "pre"
    origin: str = "transformers.models"
    qkv: tuple[str, ...] | Callable[[nn.Module], tuple[list, tuple]] = ("q_proj", "k_proj", "v_proj")
    gate: str | None = None
    gated: bool | Callable[[nn.Module], bool] = False
    attention_scale: str | None = None
    ffn_scale: str | None = None
    head_dim: str = "head_dim|attention_head_size"
    scaling: str | None = "scaling|scale"
    rotary: bool | Callable[[nn.Module], bool] = False
    heads: tuple[str, ...] = ("num_attention_heads", "num_heads", "n_heads")
    width: tuple[str, ...] = ("all_head_size", "embed_dim", "dim")
    heads_stay: str = ""
    layers_stay: str = ""
    depth: tuple[str, ...] = ("num_hidden_layers",)
    ffn_size: tuple[str, ...] = ("intermediate_size",)
    taken: Callable[[Any, list[int]], Mapping[str, Any]] | None = None
    alone: bool = True
    check: Callable[[nn.Module], None] | None = None
    by_parts: bool = False
    models: Mapping[str, str] = field(default_factory=dict)
    base: BaseModel | None = None
    checkpoint: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width", "depth", "ffn_size", "checkpoint"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(each, str) for each in value):
                raise ValueError(f"{name}={value!r} of family {self.name!r}: a tuple of names is needed")
        if not self.name or not self.layers:
            raise ValueError(f"a family needs a name and the classes of its layers, got {self.name!r}, {self.layers!r}")
        if not callable(self.norm) and self.norm not in ("pre", "post"):
            raise ValueError(f"norm={self.norm!r} of family {self.name!r}: allowed are 'pre' and 'post'")
        if not callable(self.qkv) and (not isinstance(self.qkv, tuple) or len(self.qkv) not in (0, 1, 3)):
            raise ValueError(
                f"qkv={self.qkv!r} of family {self.name!r}: a tuple of three paths (queries, keys, values), of one "
                "(the three in one linear) or none (an nn.MultiheadAttention) is needed"
            )
        if bool(self.models) != (self.base is not None):
            raise ValueError(f"models= and base= of family {self.name!r} go together: one of them is missing")
        needed = ("attention", "output", "up", "down", "attention_norm", "ffn_norm", "head_dim")
        _check_paths(self, needed)
        optional = ("gate", "attention_scale", "ffn_scale", "scaling")
        _check_paths(self, optional, set(optional))
        if not callable(self.activation):
            _check_paths(self, ("activation",))
        for path in () if callable(self.qkv) else self.qkv:
            _check_path(path, "qkv", self.name)

    @property
    def heads_obstacle(self) -> str:
        """Why heads can't be pruned, in words; empty where they can."""
        if self.heads_stay or (self.qkv and not callable(self.qkv)):
            return self.heads_stay
        return "its queries, keys and values are no linears of their own"


def _check_paths(owner: Family | BaseModel, names: tuple[str, ...], optional: set[str] = frozenset()) -> None:
    for name in names:
        path = getattr(owner, name)
        if path is not None or name not in optional:
            _check_path(path, name, getattr(owner, "name", "a base model"))


def _check_path(path: Any, name: str, owner: str) -> None:
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ValueError(
            f"{name}={path!r} of {owner!r} is no path: names with dots between them are needed, such as 'mlp.fc1', "
            "with | between those of which one exists, and ? at the end of one that may be missing"
        )


# -- paths -----------------------------------------------------------------------------------------------------------


def find(module: nn.Module, path: str | None) -> tuple[str, Any] | None:
    """The first alternative of ``path`` that exists in ``module``, and what is there; None if it may be missing."""
    if path is None:
        return None
    missing = []
    for each in path.removesuffix("?").split("|"):
        value = module
        for step in each.split("."):
            if (inner := getattr(value, step, missing)) is missing:
                missing.append(f"{each}: {type(value).__name__} has no {step}")
                break
            value = inner
        else:
            return None if value is None and path.endswith("?") else (each, value)
    if path.endswith("?"):
        return None
    raise NoSuchPart(", nor ".join(missing))


def need(module: nn.Module, path: str) -> Any:
    """What is at ``path`` in ``module``; NoSuchPart, in words, where nothing is."""
    found = find(module, path)
    return None if found is None else found[1]


# -- which are known -------------------------------------------------------------------------------------------------

_known: list[Family] = []
_registered: set[str] = set()
_by_class: dict[str, list[Family]] = {}


def families() -> Iterator[Family]:
    """All that are known, the built-in ones first."""
    yield from _known


def family_of(module: nn.Module, what: str = "layers", subclasses: bool = False) -> Family | None:
    """The family of a layer (or, with ``what="models"``, of a base model), by its class; None if there is none.

    Args:
        subclasses: whether the class may also be one derived from a class of the family.
    """
    for cls in type(module).__mro__ if subclasses else (type(module),):
        for family in _by_class.get(cls.__name__, ()):
            if cls.__name__ in getattr(family, what) and f"{cls.__module__}.".startswith(f"{family.origin}."):
                return family
    return None


def register(family: Family) -> Family:
    """Makes a family known: its layers are fused, pruned, and found by `kdnative.models.layers_of`.

    It says nothing about checkpoints: what a file may have built is a reviewed list that no registration extends.
    Models of the family are saved as usual, and filled where they can't be built: ``kdnative.load(path, into=model)``.

    Returns:
        The family.

    Raises:
        TypeError: no `Family`. ValueError: a name or class that is known already, or ``checkpoint`` is given. Paths are
            looked up in a layer when it is first used; the error then names the class and the path.
    """
    if not isinstance(family, Family):
        raise TypeError(f"register takes a kdnative.models.Family, not {type(family).__name__}")
    if family.checkpoint:
        raise ValueError(
            f"family {family.name!r} names model types for checkpoints ({', '.join(family.checkpoint)}): what a file "
            "may have built can't be extended at run time; leave it out, and load with into=model"
        )
    for other in _known:
        shared = {*family.layers, *family.models} & {*other.layers, *other.models}
        if other.name == family.name or (shared and _overlap(family.origin, other.origin)):
            what = f"as {', '.join(sorted(shared))} of {other.origin}" if shared else "under this name"
            raise ValueError(f"family {family.name!r} is known already {what} ({other.name}): unregister that first")
    add(family)
    _registered.add(family.name)
    return family


def unregister(name: str) -> None:
    """Forgets a family that was registered; ValueError where none of that name was."""
    if name not in _registered:
        raise ValueError(
            f"family {name!r} was not registered; these were: {', '.join(sorted(_registered)) or '(none)'}"
        )
    _registered.remove(name)
    for found in (_known, *_by_class.values()):
        found[:] = [family for family in found if family.name != name]


def add(family: Family) -> None:
    """Makes a built-in family known, unchecked: for rows of the table. `register` is for all others."""
    _known.append(family)
    for cls in {*family.layers, *family.models}:
        _by_class.setdefault(cls, []).append(family)


def _overlap(a: str, b: str) -> bool:
    return f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")
