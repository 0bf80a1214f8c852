"""``nn.TransformerEncoder`` and its layer, recognised and rebuilt as :class:`kdnative.nn.TransformerEncoder`."""

from __future__ import annotations

from torch import nn

from kdnative.models.layer_conversion import (
    Layer,
    Quantize,
    Unsupported,
    layers_alone,
    one_of,
)
from kdnative.models.torch_attention import projections
from kdnative.nn.transformer import TransformerEncoder

__all__ = ["encoder_from_torch", "is_encoder"]


def is_encoder(module: nn.Module) -> bool:
    """Whether ``module`` is torch's encoder or one of its layers, and no subclass."""
    return type(module) in (nn.TransformerEncoder, nn.TransformerEncoderLayer)


def encoder_from_torch(module: nn.Module, quantize: Quantize) -> TransformerEncoder | str:
    """Rebuild an ``nn.TransformerEncoder`` or an ``nn.TransformerEncoderLayer``; ``module`` is not changed.

    Args:
        module: the encoder or layer.
        quantize: see :data:`kdnative.models.layer_conversion.Quantize`; queries, keys and values go by the name of the
            ``nn.MultiheadAttention``.

    Returns:
        The native encoder, or the reason in words why there can be none.
    """
    try:
        return _convert(module, quantize)
    except Unsupported as reason:
        return str(reason)


def _convert(module: nn.Module, quantize: Quantize) -> TransformerEncoder:
    whole = isinstance(module, nn.TransformerEncoder)
    floats = [*module.layers] if whole else [module]
    if not floats:
        raise Unsupported("it has no layers")
    final = module.norm if whole else None
    if final is not None and (type(final) is not nn.LayerNorm or final.weight is None):
        raise Unsupported("its final norm is no nn.LayerNorm with a weight")
    layers = [_layer(layer, f"layers.{i}." if whole else "") for i, layer in enumerate(floats)]
    parts = layers_alone(
        layers,
        quantize,
        norm="pre" if one_of([layer.norm_first for layer in floats], "norm_first") else "post",
        batch_first=one_of([layer.self_attn.batch_first for layer in floats], "batch_first"),
        final_norm=None if final is None else {"eps": final.eps, "bias": final.bias is not None},
    )
    return TransformerEncoder.from_parts(parts, norm=final)


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
