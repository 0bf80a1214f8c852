"""Encoders of Hugging Face transformers, recognised and rebuilt as :class:`kdnative.nn.Encoder`.

Nothing here imports transformers: models are recognised by the name and origin of their class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdnative.models.family import families, family_of
from kdnative.models.layer_conversion import (
    Quantize,
    Unsupported,
    activation_name,
    check_parameters,
    copy_norm,
    fill_layer,
    layer_spec,
    native_linear,
    one_of,
    quantized_layer,
)
from kdnative.models.reading import EncoderSource, read_encoder
from kdnative.nn.embedding import Embedding
from kdnative.nn.encoder import Encoder
from kdnative.nn.encoder_parts import EncoderParts
from kdnative.nn.linear import Linear

__all__ = ["encoder_from_hf", "is_conv1d", "is_encoder", "linear_of_conv1d", "stays_in_float"]


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
    return family_of(module, "models") is not None


def is_conv1d(module: nn.Module) -> bool:
    """Whether ``module`` is the layer that GPT-2 and its kin have for a linear one: ``[K, N]`` weights."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def linear_of_conv1d(module: nn.Module) -> nn.Linear:
    """The linear that computes the same, on the parameters of ``module``."""
    inputs, outputs = module.weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight, linear.bias = nn.Parameter(module.weight.detach().t()), module.bias
    return linear


def encoder_from_hf(module: nn.Module, quantize: Quantize) -> Encoder | str:
    """Rebuild a base model of transformers as a native encoder; ``module`` is not changed.

    The base models of :mod:`kdnative.models.families` are known (BertModel is also that of MiniLM), with heads
    or feed-forward neurons pruned in any layer: sizes are read from the weights. Embedding tables become int8 with one
    scale per row; ``quantize`` is asked for every linear.

    Args:
        module: the base model, for example ``model.bert``.
        quantize: gives the integer weight of a linear, or None when it must stay in float. It is called with the
            name inside ``module`` and the linear, in the order of the layers.

    Returns:
        The encoder, or the reason in words why there can be none.
    """
    try:
        return _convert(module, quantize)
    except AttributeError as error:
        return f"its parts are not those that are known of {type(module).__name__}: {error}"
    except Unsupported as reason:
        return str(reason)


def _convert(module: nn.Module, quantize: Quantize) -> Encoder:
    if not _is_known(module):
        raise Unsupported(
            f"{type(module).__name__} is not one of {', '.join(name for row in families() for name in row.models)} of "
            "transformers" + (" (it has relative positions)" if _has_relative_positions(module) else "")
        )
    _check_outputs(module.config)
    source = read_encoder(module)
    check_parameters(module, source.parameters())
    hidden = source.word.embedding_dim
    linears = [quantized_layer(layer, hidden, source.gated, quantize) for layer in source.layers]
    pooled = None if source.pooler is None else native_linear(quantize, [source.pooler], activation="tanh")
    parts = EncoderParts(_spec(source, linears, pooled))
    embeddings = parts.embeddings
    embeddings.word = _table("word", source.word)
    if source.position is not None:
        embeddings.position = _table("position", source.position)
    if source.token_type is not None:
        embeddings.token_type = _table("token type", source.token_type)
    copy_norm(embeddings.norm, source.embedding_norm)
    if source.relative is not None:
        _copy_relative(parts, source.relative)
    for part, layer, own in zip(parts.layers, source.layers, linears, strict=True):
        fill_layer(part, layer, own)
    if source.final_norm is not None:
        copy_norm(parts.final_norm, source.final_norm)
    encoder = Encoder.from_parts(parts, pooler=pooled)
    encoder.config = module.config
    return encoder


def _check_outputs(config: object) -> None:
    """A configuration may ask every call for weights of attention, or for a tuple."""
    for name, usual in (("output_attentions", False), ("return_dict", True)):
        if getattr(config, name, usual) not in (usual, None):
            raise Unsupported(f"its config sets {name}={getattr(config, name)}, which the native encoder can't honour")


def _spec(source: EncoderSource, linears: list[dict[str, Linear]], pooled: Linear | None) -> dict:
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
        "activation": one_of([activation_name(layer.activation) for layer in source.layers], "activation") or "gelu",
        "eps": one_of([norm.eps for norm in norms if norm is not None], "LayerNorm eps"),
        "padding_id": source.padding_id,
        "pooler": None if pooled is None else str(pooled.scheme),
        "output": source.output,
        "dtype": str(source.word.weight.dtype).removeprefix("torch."),
        "layers": [layer_spec(layer, own) for layer, own in zip(source.layers, linears, strict=True)],
    }


def _table(what: str, embedding: nn.Embedding) -> Embedding:
    try:
        return Embedding.from_float(embedding)
    except ValueError as error:
        raise Unsupported(f"the {what} embedding can't be quantized: {error}") from error


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
