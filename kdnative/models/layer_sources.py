"""The native layer that is made of a layer of another library."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from kdnative.models.layer_conversion import Layer, Named, Quantize, Unsupported, layers_alone
from kdnative.models.reading import LayerSource
from kdnative.nn.encoder_layer import EncoderLayer

__all__ = ["native_layer"]

_QUICK_GELU = ("QuickGELUActivation", "QuickGELU")


def native_layer(source: LayerSource, quantize: Quantize) -> EncoderLayer:
    """The layer as one operator; Unsupported where that is impossible."""
    layer = _with_silu(_without_scales(source))
    if source.rotary and layer.head_dim % 2:
        raise Unsupported(f"rotary positions need heads of an even width, and these have {layer.head_dim}")
    settings = {"norm": source.norm, "gated": source.gated, "rotary_given": source.rotary}
    return EncoderLayer.from_parts(layers_alone([layer], quantize, **settings))


def _without_scales(source: LayerSource) -> Layer:
    """The layer with its factors in the linears before them."""
    layer = source.layer
    if source.attention_scale is not None:
        layer = replace(layer, output=_scaled(layer.output, source.attention_scale))
    if source.ffn_scale is not None:
        layer = replace(layer, ffn_out=_scaled(layer.ffn_out, source.ffn_scale))
    return layer


def _with_silu(layer: Layer) -> Layer:
    """x sigmoid(1.702 x), the "quick GELU" of CLIP, is silu(1.702 x) / 1.702: the factors go into the linears."""
    if type(layer.activation).__name__ not in _QUICK_GELU:
        return layer
    factor = torch.tensor(1.702, dtype=torch.float64)
    name, linear = _scaled(layer.ffn_out, 1 / factor)
    linear.bias = layer.ffn_out[1].bias
    return replace(
        layer, ffn_in=[_scaled(n, factor) for n in layer.ffn_in], ffn_out=(name, linear), activation=nn.SiLU()
    )


@torch.no_grad()
def _scaled(named: Named, factor: Tensor) -> Named:
    """A linear whose outputs are ``factor`` (of all, or ``[N]``) times those of the given one, in float32."""
    name, linear = named
    if type(linear) not in (nn.Linear, NonDynamicallyQuantizableLinear):
        raise Unsupported(f"{name} has a factor behind it, which a {type(linear).__name__} can't take in")
    scaled = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    factor = factor.double()
    scaled.weight = nn.Parameter((linear.weight.double() * factor.view(-1, 1)).float())
    if linear.bias is not None:
        scaled.bias = nn.Parameter((linear.bias.double() * factor).float())
    return name, scaled
