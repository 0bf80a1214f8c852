"""Layers of a transformer as parts of a native encoder: described first, by shapes and schemes; then filled, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.models.layer import Layer, Named, Unsupported, activation_name, one_of
from kdnative.nn import Linear
from kdnative.nn.encoder_parts import EncoderParts
from kdnative.nn.encoder_spec import LINEARS, complete

__all__ = [
    "QUICK_GELU",
    "SchemeOf",
    "WeightOf",
    "check_norm",
    "checked_spec",
    "copy_norm",
    "fill_layer",
    "fill_linear",
    "is_quick_gelu",
    "joint_scheme",
    "layer_spec",
    "layers_alone",
    "parts_alone",
]

SchemeOf = Callable[[str, nn.Linear], Scheme]
"""The scheme of a linear by its name; :class:`Unsupported` where it has none."""

QUICK_GELU = 1.702
"""``x sigmoid(1.702 x)``, the "quick GELU" of CLIP, is ``silu(1.702 x) / 1.702``."""

WeightOf = Callable[[str, nn.Linear], QuantizedWeight]
"""The integer weight of a linear by its name."""


# -- describing --------------------------------------------------------------------------------------------------------


def layer_spec(layer: Layer, hidden: int, gated: bool, scheme_of: SchemeOf) -> dict[str, Any]:
    """What a spec says of a layer, after checking that its shapes fit together."""
    _check_shapes(layer, hidden, gated)
    schemes = {name: str(joint_scheme(linears, scheme_of)) for name, linears in _linears(layer).items()}
    return {
        "heads": layer.output[1].in_features // layer.head_dim,
        "head_dim": layer.head_dim,
        "ffn": layer.ffn_out[1].in_features,
        "scaling": float(layer.scaling),
        "attention_norm": "attention_norm" in layer.norms,
        "window": layer.window,
        "rope_theta": layer.rope_theta,
        **schemes,
    }


def joint_scheme(linears: Sequence[Named], scheme_of: SchemeOf) -> Scheme:
    """The scheme of one product that gives the outputs of all ``linears``."""
    schemes = [scheme_of(name, linear) for name, linear in linears]
    if len({(s.weight_bits, s.group_size, s.integer_scales, s.input_scales) for s in schemes}) > 1:
        raise Unsupported(f"{', '.join(name for name, _ in linears)} have different schemes, but run as one product")
    return next((scheme for scheme in schemes if not scheme.symmetric), schemes[0]).dense


def layers_alone(
    layers: Sequence[Layer], scheme_of: SchemeOf, *, norm: str, gated: bool = False, **settings: Any
) -> dict[str, Any]:
    """The spec of an encoder that takes hidden states; ``settings`` are what else it says."""
    hidden = layers[0].qkv[0][1].in_features
    described = [layer_spec(layer, hidden, gated, scheme_of) for layer in layers]
    spec = {
        "embeddings": False,
        "hidden_size": hidden,
        "norm": norm,
        "gated": gated,
        "activation": one_of([activation_name(layer.activation) for layer in layers], "activation"),
        "eps": one_of([each.eps for layer in layers for each in layer.norms.values()], "LayerNorm eps"),
        **settings,
        "layers": described,
    }
    for layer in layers:
        for each in layer.norms.values():
            check_norm(each)
    return checked_spec(spec)


def checked_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The complete form of a spec; :class:`Unsupported` for settings that no native encoder has."""
    try:
        return complete(spec)
    except ValueError as error:
        raise Unsupported(str(error)) from error


def check_norm(norm: nn.Module) -> None:
    """Unsupported for what is no LayerNorm that multiplies."""
    if not isinstance(norm, nn.LayerNorm) or norm.weight is None:
        raise Unsupported("one of its normalisations is no LayerNorm with a weight")


def _linears(layer: Layer) -> dict[str, list[Named]]:
    """The linears of each product, in the order of execution."""
    return dict(zip(LINEARS, (layer.qkv, [layer.output], layer.ffn_in, [layer.ffn_out]), strict=True))


def _check_shapes(layer: Layer, hidden: int, gated: bool) -> None:
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


def is_quick_gelu(activation: object) -> bool:
    """Whether it is that of transformers or of OpenCLIP."""
    return type(activation).__name__ in ("QuickGELUActivation", "QuickGELU")


# -- filling -----------------------------------------------------------------------------------------------------------


def parts_alone(spec: dict[str, Any], layers: Sequence[Layer], weight_of: WeightOf) -> EncoderParts:
    """The parts of an encoder that takes hidden states."""
    parts = EncoderParts(spec)
    for part, layer in zip(parts.layers, layers, strict=True):
        fill_layer(part, layer, weight_of)
    return parts


def fill_layer(part: nn.Module, layer: Layer, weight_of: WeightOf) -> None:
    """Give the empty parts of a layer (its ``LayerParts``) their weights, and the values of their LayerNorms."""
    for name, linears in _linears(layer).items():
        fill_linear(getattr(part, name), linears, weight_of)
    for name, norm in layer.norms.items():
        copy_norm(getattr(part, name), norm)


def fill_linear(native: Linear, linears: Sequence[Named], weight_of: WeightOf) -> None:
    """Pack the weights of ``linears``, whose outputs follow one another; one without a bias has a bias of 0."""
    weights = [weight_of(name, linear) for name, linear in linears]
    biases = [
        torch.zeros(x.out_features, dtype=torch.float32, device="cpu") if x.bias is None else x.bias.detach().float()
        for _, x in linears
    ]
    try:
        joined = QuantizedWeight.joined(weights)
    except ValueError as error:
        raise ValueError(f"{', '.join(name for name, _ in linears)}, which run as one product: {error}") from None
    native.pack_(joined, torch.cat(biases))


@torch.no_grad()
def copy_norm(to: nn.LayerNorm, source: nn.LayerNorm) -> None:
    """The values of ``source``; a missing bias stays 0."""
    to.weight.copy_(source.weight)
    if source.bias is not None:
        to.bias.copy_(source.bias)
