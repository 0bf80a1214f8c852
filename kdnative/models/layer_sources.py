"""A layer as a model keeps it, and the native layer that is made of it: what the readers of all libraries share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from kdnative.models.layer_conversion import Layer, Named, Quantize, Unsupported, layers_alone
from kdnative.nn.encoder_layer import EncoderLayer

__all__ = ["Source", "native_layer", "pre_norms"]

_QUICK_GELU = ("QuickGELUActivation", "QuickGELU")


@dataclass(frozen=True)
class Source:
    """``attention_scale`` and ``ffn_scale``: factors of what either part adds to the hidden states, ``[H]`` or None.

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


def pre_norms(attention: nn.LayerNorm, ffn: nn.LayerNorm) -> dict[str, nn.LayerNorm]:
    """The norms of a layer that normalises what its parts read."""
    return {"attention_norm": attention, "ffn_norm": ffn}


def native_layer(source: Source, quantize: Quantize) -> EncoderLayer:
    """The layer as one operator; Unsupported where that is impossible."""
    layer = _with_silu(_without_scales(source))
    if source.rotary and layer.head_dim % 2:
        raise Unsupported(f"rotary positions need heads of an even width, and these have {layer.head_dim}")
    settings = {"norm": source.norm, "gated": source.gated, "rotary_given": source.rotary}
    return EncoderLayer.from_parts(layers_alone([layer], quantize, **settings))


def _without_scales(source: Source) -> Layer:
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
