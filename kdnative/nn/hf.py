"""Encoders of Hugging Face transformers, recognised and rebuilt as :class:`kdnative.nn.Encoder`.

Nothing here imports transformers: models are recognised by the name and origin of their class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdnative.nn.embedding import Embedding
from kdnative.nn.encoder import Encoder
from kdnative.nn.encoder_parts import EncoderParts, LayerParts
from kdnative.nn.hf_families import READERS, Layer, Named, Source, Unsupported
from kdnative.nn.linear import Linear
from kdnative.quantize import QuantizedWeight
from kdnative.scheme import Scheme

__all__ = ["encoder_from_hf", "is_encoder", "stays_in_float"]

Quantize = Callable[[str, nn.Linear], QuantizedWeight | None]

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


def is_encoder(module: nn.Module) -> bool:
    """Whether ``module`` is the base model of a Hugging Face encoder, known to :func:`encoder_from_hf` or not."""
    if _is_known(module):
        return True
    body = getattr(module, "encoder", None) or getattr(module, "transformer", None)
    return (
        isinstance(getattr(module, "embeddings", None), nn.Module)
        and isinstance(body, nn.Module)
        and isinstance(getattr(body, "layer", None), nn.ModuleList)
        and hasattr(module, "config")
    )


def _is_known(module: nn.Module) -> bool:
    return type(module).__module__.startswith("transformers.models.") and type(module).__name__ in READERS


def encoder_from_hf(module: nn.Module, quantize: Quantize) -> Encoder | str:
    """Rebuild a base model of transformers as a native encoder; ``module`` is not changed.

    BertModel (MiniLM and other checkpoints of that class too), RobertaModel, XLMRobertaModel, CamembertModel,
    ElectraModel, DistilBertModel, MPNetModel, ModernBertModel and NomicBertModel are known, with heads or feed-forward
    neurons pruned in any layer: sizes are read from the weights. Embedding tables become int8 with one scale per row;
    ``quantize`` is asked for every linear.

    Args:
        module: the base model, for example ``model.bert``.
        quantize: gives the integer weight of a linear, or None when it must stay in float. It is called with the
            name inside ``module`` and the linear, in the order of the layers.

    Returns:
        The encoder, or the reason in words why there can be none.
    """
    try:
        return _convert(module, quantize)
    except Unsupported as reason:
        return str(reason)


def _convert(module: nn.Module, quantize: Quantize) -> Encoder:
    if not _is_known(module):
        raise Unsupported(
            f"{type(module).__name__} is not one of {', '.join(READERS)} of transformers"
            + (" (it has relative positions)" if _has_relative_positions(module) else "")
        )
    _check_outputs(module.config)
    source = READERS[type(module).__name__](module)
    hidden = source.word.embedding_dim
    linears = [_quantized_layer(layer, hidden, source.gated, quantize) for layer in source.layers]
    pooled = None if source.pooler is None else _native(quantize, [source.pooler], activation="tanh")
    parts = EncoderParts(_spec(source, linears, pooled))
    embeddings = parts.embeddings
    embeddings.word = _table("word", source.word)
    if source.position is not None:
        embeddings.position = _table("position", source.position)
    if source.token_type is not None:
        embeddings.token_type = _table("token type", source.token_type)
    _copy_norm(embeddings.norm, source.embedding_norm)
    if source.relative is not None:
        _copy_relative(parts, source.relative)
    for part, layer, own in zip(parts.layers, source.layers, linears, strict=True):
        for name, linear in own.items():
            setattr(part, name, linear)
        _copy_norms(part, layer)
    if source.final_norm is not None:
        _copy_norm(parts.final_norm, source.final_norm)
    encoder = Encoder.from_parts(parts, pooled)
    encoder.config = module.config
    return encoder


def _check_outputs(config: object) -> None:
    """A configuration may ask every call for more than the last hidden state, or for a tuple."""
    for name, usual in (("output_attentions", False), ("output_hidden_states", False), ("return_dict", True)):
        if getattr(config, name, usual) not in (usual, None):
            raise Unsupported(f"its config sets {name}={getattr(config, name)}, which the native encoder can't honour")


def _spec(source: Source, linears: list[dict[str, Linear]], pooled: Linear | None) -> dict:
    norms = [source.embedding_norm, source.final_norm, *(n for layer in source.layers for n in layer.norms.values())]
    return {
        "hidden_size": source.word.embedding_dim,
        "vocab_size": source.word.num_embeddings,
        "max_positions": source.max_positions,
        "position_table": source.position is not None,
        "token_types": 0 if source.token_type is None else source.token_type.num_embeddings,
        "relative_buckets": 0 if source.relative is None else source.relative.num_embeddings,
        "relative_distance": source.relative_distance,
        "norm": source.norm,
        "gated": source.gated,
        "activation": _only([_activation(layer.activation) for layer in source.layers], "activation") or "gelu",
        "eps": _only([norm.eps for norm in norms if norm is not None], "LayerNorm eps"),
        "padding_id": source.padding_id,
        "pooler": None if pooled is None else str(pooled.scheme),
        "output": source.output,
        "dtype": str(source.word.weight.dtype).removeprefix("torch."),
        "layers": [_layer_spec(layer, own) for layer, own in zip(source.layers, linears, strict=True)],
    }


def _quantized_layer(layer: Layer, hidden: int, gated: bool, quantize: Quantize) -> dict[str, Linear]:
    """The four native linears of a layer, after checking that their shapes fit together."""
    width = layer.qkv[0][1].out_features * len(layer.qkv) // 3
    inner = layer.ffn_in[0][1].out_features * len(layer.ffn_in) // (2 if gated else 1)
    for named, outputs, inputs in (
        (layer.qkv, 3 * width, hidden),
        ([layer.output], hidden, width),
        (layer.ffn_in, (2 if gated else 1) * inner, hidden),
        ([layer.ffn_out], hidden, inner),
    ):
        for name, linear in named:
            shape = (outputs // len(named), inputs)
            if tuple(linear.weight.shape) != shape or 0 in shape:
                raise Unsupported(f"{name} has shape {list(linear.weight.shape)} where {list(shape)} is needed")
    if width % layer.head_dim:
        raise Unsupported(f"{layer.qkv[0][0]} has {width} outputs, which heads of {layer.head_dim} do not divide")
    return {
        "qkv": _native(quantize, layer.qkv),
        "output": _native(quantize, [layer.output]),
        "ffn_in": _native(quantize, layer.ffn_in),
        "ffn_out": _native(quantize, [layer.ffn_out]),
    }


def _native(quantize: Quantize, linears: list[Named], activation: str = "none") -> Linear:
    """One native linear that computes the outputs of all ``linears`` one after the other."""
    weights = []
    for name, linear in linears:
        weight = quantize(name, linear)
        if weight is None:
            raise Unsupported(f"{name} stays in float")
        weights.append(weight)
    names = ", ".join(name for name, _ in linears)
    if len({(weight.bits, weight.group_size, weight.group_scale is None) for weight in weights}) > 1:
        raise Unsupported(f"{names} have different schemes, but run as one product")
    zero = None
    if any(weight.zero is not None for weight in weights):
        zeros = [w.zero if w.zero is not None else torch.zeros(w.scale.shape, dtype=torch.int8) for w in weights]
        zero = torch.cat(zeros)
    joined = replace(
        weights[0],
        qweight=torch.cat([w.qweight for w in weights]),
        scale=torch.cat([w.scale for w in weights]),
        zero=zero,
        group_scale=None if weights[0].group_scale is None else torch.cat([w.group_scale for w in weights]),
    )
    biases = [torch.zeros(x.out_features) if x.bias is None else x.bias.detach().float() for _, x in linears]
    scheme = Scheme(joined.bits, 8, joined.group_size, zero is None, integer_scales=joined.group_scale is not None)
    return Linear.from_quantized(joined, torch.cat(biases), scheme, activation)


def _layer_spec(layer: Layer, linears: dict[str, Linear]) -> dict:
    return {
        "heads": layer.output[1].in_features // layer.head_dim,
        "head_dim": layer.head_dim,
        "ffn": layer.ffn_out[1].in_features,
        "scaling": float(layer.scaling),
        "attention_norm": "attention_norm" in layer.norms,
        "window": layer.window,
        "rope_theta": layer.rope_theta,
        **{name: str(linear.scheme) for name, linear in linears.items()},
    }


def _activation(fn: object) -> str:
    kind = type(fn).__name__
    if isinstance(fn, nn.GELU):
        return "gelu_tanh" if fn.approximate == "tanh" else "gelu"
    if kind not in _ACTIVATIONS:
        name = getattr(fn, "__name__", kind)
        raise Unsupported(f"its activation {name} has no kernel; known are {', '.join(sorted(_ACTIVATIONS))}")
    return _ACTIVATIONS[kind]


def _only(values: list, what: str):
    """The one value that all layers share; None for no layers."""
    if len(set(values)) > 1:
        raise Unsupported(f"its layers differ in {what}: {', '.join(map(str, sorted(set(values))))}")
    return values[0] if values else None


def _table(what: str, embedding: nn.Embedding) -> Embedding:
    try:
        return Embedding.from_float(embedding)
    except ValueError as error:
        raise Unsupported(f"the {what} embedding can't be quantized: {error}") from error


def _copy_norms(part: LayerParts, layer: Layer) -> None:
    for name, norm in layer.norms.items():
        _copy_norm(getattr(part, name), norm)


@torch.no_grad()
def _copy_norm(to: nn.LayerNorm, source: nn.LayerNorm) -> None:
    if not isinstance(source, nn.LayerNorm) or source.weight is None:
        raise Unsupported("one of its normalisations is no LayerNorm with a weight")
    to.weight.copy_(source.weight)
    if source.bias is not None:
        to.bias.copy_(source.bias)


@torch.no_grad()
def _copy_relative(parts: EncoderParts, source: nn.Embedding) -> None:
    heads = {layer["heads"] for layer in parts.spec["layers"]}
    if heads - {source.embedding_dim}:
        raise Unsupported(
            f"its relative positions are for {source.embedding_dim} heads, but its layers have "
            f"{', '.join(map(str, sorted(heads)))}"
        )
    weight: Tensor = source.weight
    if not bool(torch.isfinite(weight).all()):
        raise Unsupported("its relative positions hold NaN or infinite values")
    parts.relative_bias.weight.copy_(weight)


def stays_in_float(name: str) -> bool:
    """Whether an embedding of a known encoder is no table of rows for tokens, and keeps its values."""
    return name.rpartition(".")[2] == "relative_attention_bias"


def _has_relative_positions(module: nn.Module) -> bool:
    return any("relative" in name for name, _ in module.named_modules())
