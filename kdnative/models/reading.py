"""Reads a layer or a base model by the row of its family: its parts, as conversions take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from kdnative.models.family import Family, family_of, find, need
from kdnative.models.layer import Layer, Named, Unsupported
from kdnative.models.torch_attention import projections

__all__ = ["EncoderSource", "LayerSource", "head_dim_of", "is_gated", "read_encoder", "read_layer"]


@dataclass(frozen=True)
class LayerSource:
    """A layer as a model keeps it.

    ``attention_scale`` and ``ffn_scale``: factors of what either part adds to the hidden states, ``[H]`` or None.
    ``rotary``: whether queries and keys are turned by positions that the model gives its layers in every call.
    ``inside``: parameters that some of the linears were put together from.
    """

    layer: Layer
    norm: str = "pre"
    gated: bool = False
    rotary: bool = False
    attention_scale: Tensor | None = None
    ffn_scale: Tensor | None = None
    inside: tuple[nn.Parameter, ...] = ()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter that the native layer is made of."""
        yield from self.layer.parameters()
        yield from (scale for scale in (self.attention_scale, self.ffn_scale) if scale is not None)
        yield from self.inside


@dataclass(frozen=True)
class EncoderSource:
    """The parts of a base model.

    ``norm``: "post" or "pre"; ``padding_id``: None where a token's position is its column.
    ``relative`` is the table of biases by distance (buckets x heads) and ``relative_distance`` where it saturates.
    """

    word: nn.Embedding
    position: nn.Embedding | None
    token_type: nn.Embedding | None
    embedding_norm: nn.LayerNorm
    layers: list[Layer]
    max_positions: int
    output: str
    pooler: Named | None = None
    padding_id: int | None = None
    norm: str = "post"
    final_norm: nn.LayerNorm | None = None
    gated: bool = False
    relative: nn.Embedding | None = None
    relative_distance: int = 0

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter that the native encoder is made of."""
        pooler = None if self.pooler is None else self.pooler[1]
        apart = (self.word, self.position, self.token_type, self.embedding_norm, self.final_norm, self.relative, pooler)
        for part in apart:
            yield from () if part is None else part.parameters()
        for layer in self.layers:
            yield from layer.parameters()


def read_layer(layer: nn.Module, family: Family | None = None, prefix: str = "") -> LayerSource:
    """The parts of a layer, named from ``prefix`` on, by its family: that of its class, unless another is given.

    Raises:
        NoSuchPart: it has others than its family says. Unsupported: it does something that has no native form.
    """
    row = family or family_of(layer)
    if row.check is not None:
        row.check(layer)
    norm = row.norm(layer) if callable(row.norm) else row.norm
    attention = need(layer, row.attention)
    qkv, inside = _qkv(row, attention, prefix)
    up, gate = _named(layer, row.up, prefix), _named(layer, row.gate, prefix)
    head_dim = head_dim_of(row, attention, sum(len(linear.weight) for _, linear in qkv) // 3)
    scaling = need(attention, row.scaling) if row.scaling else None
    activation = need(layer, row.activation) if isinstance(row.activation, str) else row.activation
    found = Layer(
        qkv,
        _named(layer, row.output, prefix),
        [up] if gate is None else [gate, up],
        _named(layer, row.down, prefix),
        _norms(row, layer, norm),
        head_dim,
        head_dim**-0.5 if scaling is None else scaling,
        activation,
    )
    return LayerSource(
        found,
        norm,
        gate is not None or is_gated(row, layer),
        _answer(row.rotary, layer),
        None if row.attention_scale is None else need(layer, row.attention_scale),
        None if row.ffn_scale is None else need(layer, row.ffn_scale),
        inside,
    )


def read_encoder(model: nn.Module) -> EncoderSource:
    """The parts of a base model by its family; the exceptions are those of :func:`read_layer`."""
    family = family_of(model, "models")
    base = family.base
    if base.check is not None:
        base.check(model)
    layers = [read_layer(layer, family, f"{base.layers}.{i}.") for i, layer in enumerate(need(model, base.layers))]
    own = [source.layer for source in layers]
    if base.positions is not None:
        found = zip(own, base.positions(model), strict=True)
        own = [replace(layer, window=window, rope_theta=theta) for layer, (window, theta) in found]
    position = None if base.position is None else need(model, base.position)
    owner = need(model, base.layers.rpartition(".")[0]) if "." in base.layers else model
    return EncoderSource(
        need(model, base.word),
        position,
        None if base.token_type is None else need(model, base.token_type),
        need(model, base.norm),
        own,
        model.config.max_position_embeddings if position is None else position.num_embeddings,
        family.models[type(model).__name__],
        _pooler(None if base.pooler is None else need(model, base.pooler)),
        None if base.padding_id is None else need(model, base.padding_id),
        family.norm,
        None if base.final_norm is None else need(model, base.final_norm),
        layers[0].gated if layers else family.gate is not None,
        None if base.relative is None else need(owner, base.relative),
        base.relative_distance,
    )


def head_dim_of(family: Family, attention: nn.Module, width: int) -> int:
    """The width of a head: what the attention says, or what follows from the number of heads."""
    if isinstance(attention, nn.MultiheadAttention):
        return attention.head_dim
    found = need(attention, family.head_dim)
    return found or width // need(attention, "|".join(family.heads))


def is_gated(family: Family, layer: nn.Module) -> bool:
    """Whether ``up`` of a layer holds a gate too, in the first half of its outputs."""
    return _answer(family.gated, layer)


def _qkv(family: Family, attention: nn.Module, prefix: str) -> tuple[list[Named], tuple[nn.Parameter, ...]]:
    path, inside = prefix + family.attention, ()
    if callable(family.qkv):
        linears, inside = family.qkv(attention)
    elif not family.qkv:
        if not getattr(attention, "batch_first", True):
            raise Unsupported(f"{path} has the batch in its second dimension")
        return [projections(path, attention)[0]], ()
    else:
        linears = [find(attention, each) for each in family.qkv]
    return [(f"{path}.{name}", linear) for name, linear in linears], inside


def _named(layer: nn.Module, path: str | None, prefix: str) -> Named | None:
    found = find(layer, path)
    return None if found is None else (prefix + found[0], found[1])


def _norms(family: Family, layer: nn.Module, norm: str) -> dict[str, nn.LayerNorm]:
    attention, ffn = need(layer, family.attention_norm), need(layer, family.ffn_norm)
    if norm == "post":
        return {"attention_norm": attention, "output_norm": ffn}
    if isinstance(attention, nn.Identity):  # the first layer of ModernBERT: its embeddings are normalised already
        return {"ffn_norm": ffn}
    return {"attention_norm": attention, "ffn_norm": ffn}


def _answer(value: Any, layer: nn.Module) -> bool:
    return bool(value(layer)) if callable(value) else value


def _pooler(pooler: nn.Module | None) -> Named | None:
    if pooler is None:
        return None
    activation = getattr(pooler, "activation", None)
    if type(activation) not in (nn.Tanh, type(None)):
        raise Unsupported(f"its pooler ends with {type(activation).__name__}; only nn.Tanh is supported there")
    return "pooler.dense", pooler.dense
