"""``nn.TransformerEncoder`` and its layer: their parts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kdnative.models.layer import Layer, Unsupported, one_of
from kdnative.models.torch_attention import projections

__all__ = ["Source", "is_encoder", "read"]


@dataclass(frozen=True)
class Source:
    """The layers of an encoder of torch, which norm they have ("pre" or "post"), and the norm behind them."""

    layers: list[Layer]
    norm: str
    batch_first: bool
    final_norm: nn.LayerNorm | None


def is_encoder(module: nn.Module) -> bool:
    """Whether ``module`` is torch's encoder or one of its layers, and no subclass."""
    return type(module) in (nn.TransformerEncoder, nn.TransformerEncoderLayer)


def read(module: nn.Module) -> Source:
    """The parts of an encoder or a layer for which :func:`is_encoder` holds.

    Queries, keys and values go by the name of the ``nn.MultiheadAttention``.

    Raises:
        Unsupported: it does something that no native encoder does.
    """
    whole = isinstance(module, nn.TransformerEncoder)
    floats = [*module.layers] if whole else [module]
    if not floats:
        raise Unsupported("it has no layers")
    final = module.norm if whole else None
    if final is not None and (type(final) is not nn.LayerNorm or final.weight is None):
        raise Unsupported("its final norm is no nn.LayerNorm with a weight")
    layers = [_layer(layer, f"layers.{i}." if whole else "") for i, layer in enumerate(floats)]
    norm = "pre" if one_of([layer.norm_first for layer in floats], "norm_first") else "post"
    return Source(layers, norm, one_of([layer.self_attn.batch_first for layer in floats], "batch_first"), final)


def _layer(layer: nn.Module, prefix: str) -> Layer:
    attention = layer.self_attn
    if type(layer) is not nn.TransformerEncoderLayer:
        raise Unsupported(f"{prefix or 'it'} is of a class of its own, {type(layer).__name__}")
    qkv, output = projections(prefix + "self_attn", attention)
    return Layer(
        [qkv],
        output,
        [(prefix + "linear1", layer.linear1)],
        (prefix + "linear2", layer.linear2),
        {"attention_norm": layer.norm1, ("ffn_norm" if layer.norm_first else "output_norm"): layer.norm2},
        attention.head_dim,
        attention.head_dim**-0.5,
        layer.activation,
    )
