"""Encoders of Hugging Face transformers, recognised and rebuilt as :class:`kdnative.nn.Encoder`.

Nothing here imports transformers: models are recognised by the name and origin of their class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kdnative.nn.embedding import Embedding
from kdnative.nn.encoder import Encoder
from kdnative.nn.encoder_parts import EncoderParts
from kdnative.nn.linear import Linear
from kdnative.quantize import QuantizedWeight
from kdnative.scheme import Scheme

__all__ = ["encoder_from_hf", "is_encoder"]

Quantize = Callable[[str, nn.Linear], QuantizedWeight | None]

_BERT_LIKE = ("BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel")
_COUNT_FROM_PADDING = _BERT_LIKE[1:]
_ACTIVATIONS = {
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "AccurateGELUActivation": "gelu_tanh",
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "Tanh": "tanh",
}


class _Unsupported(Exception):
    """Why a model can't become a native encoder."""


@dataclass(frozen=True)
class _Layer:
    """Where a layer keeps its parts; linears with their names inside the model."""

    query: tuple[str, nn.Linear]
    key: tuple[str, nn.Linear]
    value: tuple[str, nn.Linear]
    output: tuple[str, nn.Linear]
    ffn_in: tuple[str, nn.Linear]
    ffn_out: tuple[str, nn.Linear]
    attention_norm: nn.LayerNorm
    output_norm: nn.LayerNorm
    head_dim: int
    scaling: float
    activation: object


def is_encoder(module: nn.Module) -> bool:
    """Whether ``module`` is the base model of a Hugging Face encoder, known to :func:`encoder_from_hf` or not."""
    body = getattr(module, "encoder", None) or getattr(module, "transformer", None)
    return (
        isinstance(getattr(module, "embeddings", None), nn.Module)
        and isinstance(body, nn.Module)
        and isinstance(getattr(body, "layer", None), nn.ModuleList)
        and hasattr(module, "config")
    )


def encoder_from_hf(module: nn.Module, quantize: Quantize) -> Encoder | str:
    """Rebuild a base model of transformers as a native encoder; ``module`` is not changed.

    BertModel (MiniLM and other checkpoints of that class too), RobertaModel, XLMRobertaModel, CamembertModel and
    DistilBertModel are known, with heads or feed-forward neurons pruned in any layer: sizes are read from the weights.
    Embedding tables become int8 with one scale per row; ``quantize`` is asked for every linear.

    Args:
        module: the base model, for example ``model.bert``.
        quantize: gives the integer weight of a linear, or None when it must stay in float. It is called with the
            name inside ``module`` and the linear, in the order of the layers.

    Returns:
        The encoder, or the reason in words why there can be none.
    """
    try:
        return _convert(module, quantize)
    except _Unsupported as reason:
        return str(reason)


def _convert(module: nn.Module, quantize: Quantize) -> Encoder:
    kind = type(module).__name__
    if not type(module).__module__.startswith("transformers.models.") or kind not in (*_BERT_LIKE, "DistilBertModel"):
        raise _Unsupported(
            f"{kind} is not one of {', '.join((*_BERT_LIKE, 'DistilBertModel'))} of transformers"
            + (" (it has relative positions)" if _has_relative_positions(module) else "")
        )
    settings = module.config
    if getattr(settings, "is_decoder", False) or getattr(settings, "add_cross_attention", False):
        raise _Unsupported("it is a decoder, or has cross attention")
    if getattr(settings, "position_embedding_type", "absolute") not in ("absolute", None):
        raise _Unsupported(f"it has {settings.position_embedding_type} positions; only absolute ones are supported")
    layers = _distilbert_layers(module) if kind == "DistilBertModel" else _bert_layers(module)
    embeddings = module.embeddings
    norms = [embeddings.LayerNorm, *(n for layer in layers for n in (layer.attention_norm, layer.output_norm))]
    token_type = getattr(embeddings, "token_type_embeddings", None)
    pooler = getattr(module, "pooler", None)
    hidden = embeddings.word_embeddings.embedding_dim
    linears = [_quantized_layer(layer, hidden, quantize) for layer in layers]
    pooled = None if pooler is None else _native(quantize, [("pooler.dense", pooler.dense)], activation="tanh")
    with_pooling = "BaseModelOutputWithPoolingAndCrossAttentions"
    config = {
        "hidden_size": hidden,
        "vocab_size": embeddings.word_embeddings.num_embeddings,
        "max_positions": embeddings.position_embeddings.num_embeddings,
        "token_types": 0 if token_type is None else token_type.num_embeddings,
        "activation": _only([_activation(layer.activation) for layer in layers], "activation") or "gelu",
        "eps": _only([norm.eps for norm in norms], "LayerNorm eps"),
        "padding_id": embeddings.padding_idx if kind in _COUNT_FROM_PADDING else None,
        "pooler": None if pooled is None else str(pooled.scheme),
        "output": "BaseModelOutput" if kind == "DistilBertModel" else with_pooling,
        "dtype": str(embeddings.word_embeddings.weight.dtype).removeprefix("torch."),
        "layers": [_layer_config(layer, own) for layer, own in zip(layers, linears, strict=True)],
    }
    parts = EncoderParts(config)
    parts.embeddings.word = _table("word", embeddings.word_embeddings)
    parts.embeddings.position = _table("position", embeddings.position_embeddings)
    if token_type is not None:
        parts.embeddings.token_type = _table("token type", token_type)
    _copy_norm(parts.embeddings.norm, embeddings.LayerNorm)
    for part, layer, own in zip(parts.layers, layers, linears, strict=True):
        for name, linear in own.items():
            setattr(part, name, linear)
        _copy_norm(part.attention_norm, layer.attention_norm)
        _copy_norm(part.output_norm, layer.output_norm)
    return Encoder.from_parts(parts, pooled)


def _bert_layers(module: nn.Module) -> list[_Layer]:
    layers = []
    for i, layer in enumerate(module.encoder.layer):
        own, attention, prefix = layer.attention.self, layer.attention, f"encoder.layer.{i}."
        layers.append(
            _Layer(
                (prefix + "attention.self.query", own.query),
                (prefix + "attention.self.key", own.key),
                (prefix + "attention.self.value", own.value),
                (prefix + "attention.output.dense", attention.output.dense),
                (prefix + "intermediate.dense", layer.intermediate.dense),
                (prefix + "output.dense", layer.output.dense),
                attention.output.LayerNorm,
                layer.output.LayerNorm,
                own.attention_head_size,
                getattr(own, "scaling", own.attention_head_size**-0.5),
                layer.intermediate.intermediate_act_fn,
            )
        )
    return layers


def _distilbert_layers(module: nn.Module) -> list[_Layer]:
    layers = []
    for i, layer in enumerate(module.transformer.layer):
        own, prefix = layer.attention, f"transformer.layer.{i}."
        head_dim = getattr(own, "attention_head_size", None) or own.dim // own.n_heads
        layers.append(
            _Layer(
                (prefix + "attention.q_lin", own.q_lin),
                (prefix + "attention.k_lin", own.k_lin),
                (prefix + "attention.v_lin", own.v_lin),
                (prefix + "attention.out_lin", own.out_lin),
                (prefix + "ffn.lin1", layer.ffn.lin1),
                (prefix + "ffn.lin2", layer.ffn.lin2),
                layer.sa_layer_norm,
                layer.output_layer_norm,
                head_dim,
                getattr(own, "scaling", head_dim**-0.5),
                layer.ffn.activation,
            )
        )
    return layers


def _quantized_layer(layer: _Layer, hidden: int, quantize: Quantize) -> dict[str, Linear]:
    """The four native linears of a layer, after checking that their shapes fit together."""
    width, ffn = layer.query[1].out_features, layer.ffn_in[1].out_features
    for (name, linear), shape in (
        (layer.query, (width, hidden)),
        (layer.key, (width, hidden)),
        (layer.value, (width, hidden)),
        (layer.output, (hidden, width)),
        (layer.ffn_in, (ffn, hidden)),
        (layer.ffn_out, (hidden, ffn)),
    ):
        if tuple(linear.weight.shape) != shape or 0 in shape:
            raise _Unsupported(f"{name} has shape {list(linear.weight.shape)} where {list(shape)} is needed")
    if width % layer.head_dim:
        raise _Unsupported(f"{layer.query[0]} has {width} outputs, which heads of {layer.head_dim} do not divide")
    return {
        "qkv": _native(quantize, [layer.query, layer.key, layer.value]),
        "output": _native(quantize, [layer.output]),
        "ffn_in": _native(quantize, [layer.ffn_in]),
        "ffn_out": _native(quantize, [layer.ffn_out]),
    }


def _native(quantize: Quantize, linears: list[tuple[str, nn.Linear]], activation: str = "none") -> Linear:
    """One native linear that computes the outputs of all ``linears`` one after the other."""
    weights = []
    for name, linear in linears:
        weight = quantize(name, linear)
        if weight is None:
            raise _Unsupported(f"{name} stays in float")
        weights.append(weight)
    names = ", ".join(name for name, _ in linears)
    if len({(weight.bits, weight.group_size) for weight in weights}) > 1:
        raise _Unsupported(f"{names} have different schemes, but run as one product")
    zero = None
    if any(weight.zero is not None for weight in weights):
        zeros = [w.zero if w.zero is not None else torch.zeros(w.scale.shape, dtype=torch.int8) for w in weights]
        zero = torch.cat(zeros)
    joined = replace(
        weights[0],
        qweight=torch.cat([w.qweight for w in weights]),
        scale=torch.cat([w.scale for w in weights]),
        zero=zero,
    )
    biases = [torch.zeros(x.out_features) if x.bias is None else x.bias.detach().float() for _, x in linears]
    scheme = Scheme(joined.bits, group_size=joined.group_size, symmetric=zero is None)
    return Linear.from_quantized(joined, torch.cat(biases), scheme, activation)


def _layer_config(layer: _Layer, linears: dict[str, Linear]) -> dict:
    return {
        "heads": layer.query[1].out_features // layer.head_dim,
        "head_dim": layer.head_dim,
        "ffn": layer.ffn_in[1].out_features,
        "scaling": float(layer.scaling),
        **{name: str(linear.scheme) for name, linear in linears.items()},
    }


def _activation(fn: object) -> str:
    kind = type(fn).__name__
    if isinstance(fn, nn.GELU):
        return "gelu_tanh" if fn.approximate == "tanh" else "gelu"
    if kind not in _ACTIVATIONS:
        name = getattr(fn, "__name__", kind)
        raise _Unsupported(f"its activation {name} has no kernel; known are {', '.join(sorted(_ACTIVATIONS))}")
    return _ACTIVATIONS[kind]


def _only(values: list, what: str):
    """The one value that all layers share; None for no layers."""
    if len(set(values)) > 1:
        raise _Unsupported(f"its layers differ in {what}: {', '.join(map(str, sorted(set(values))))}")
    return values[0] if values else None


def _table(what: str, embedding: nn.Embedding) -> Embedding:
    try:
        return Embedding.from_float(embedding)
    except ValueError as error:
        raise _Unsupported(f"the {what} embedding can't be quantized: {error}") from error


@torch.no_grad()
def _copy_norm(to: nn.LayerNorm, source: nn.LayerNorm) -> None:
    for name in ("weight", "bias"):
        value: Tensor | None = getattr(source, name)
        if value is None:
            raise _Unsupported("one of its LayerNorms has no weight or no bias")
        getattr(to, name).copy_(value)


def _has_relative_positions(module: nn.Module) -> bool:
    return any("relative" in name for name, _ in module.named_modules())
