"""One layer of a transformer: from the float modules that a model keeps it in to the parts of a native encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from kdnative.formats.scheme import Scheme
from kdnative.nn.encoder_parts import EncoderParts, LayerParts
from kdnative.nn.linear import Linear
from kdnative.quantize import QuantizedWeight

__all__ = [
    "Layer",
    "Named",
    "Quantize",
    "Unsupported",
    "activation_name",
    "check_parameters",
    "copy_norm",
    "fill_layer",
    "layer_spec",
    "layers_alone",
    "native_linear",
    "one_of",
    "quantized_layer",
]

Named = tuple[str, nn.Linear]
"""A linear and its name inside the model."""


class Unsupported(Exception):
    """Why a model can't become a native encoder."""


@dataclass(frozen=True)
class Layer:
    """One transformer layer. ``qkv`` and ``ffn_in`` are linears whose outputs follow one another.

    ``norms`` go by their names in :class:`kdnative.nn.encoder_parts.LayerParts`. ``window``: columns that attention
    reaches to either side, None for all. ``rope_theta``: base of the rotary positions, None without.
    """

    qkv: list[Named]
    output: Named
    ffn_in: list[Named]
    ffn_out: Named
    norms: dict[str, nn.LayerNorm]
    head_dim: int
    scaling: float
    activation: object
    window: int | None = None
    rope_theta: float | None = None

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of its linears and norms."""
        for _, linear in (*self.qkv, self.output, *self.ffn_in, self.ffn_out):
            yield from linear.parameters()
        for norm in self.norms.values():
            yield from norm.parameters()


Quantize = Callable[[str, nn.Linear], QuantizedWeight | None]
"""Gives the integer weight of a linear by its name, or None when it must stay in float."""

_ACTIVATIONS = {
    "GELUActivation": "gelu",
    "GELU": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "AccurateGELUActivation": "gelu_tanh",
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "Tanh": "tanh",
}
_FUNCTIONS = ((F.gelu, "gelu"), (F.relu, "relu"), (torch.relu, "relu"), (F.silu, "silu"), (torch.tanh, "tanh"))


def quantized_layer(layer: Layer, hidden: int, gated: bool, quantize: Quantize) -> dict[str, Linear]:
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
        "qkv": native_linear(quantize, layer.qkv),
        "output": native_linear(quantize, [layer.output]),
        "ffn_in": native_linear(quantize, layer.ffn_in),
        "ffn_out": native_linear(quantize, [layer.ffn_out]),
    }


def native_linear(quantize: Quantize, linears: list[Named], activation: str = "none") -> Linear:
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
    joined = QuantizedWeight.joined(weights)
    biases = [
        torch.zeros(x.out_features, dtype=torch.float32, device="cpu") if x.bias is None else x.bias.detach().float()
        for _, x in linears
    ]
    scheme = Scheme(joined.format)
    return Linear.from_quantized(joined, torch.cat(biases), scheme, activation)


def layers_alone(
    layers: list[Layer], quantize: Quantize, *, norm: str, gated: bool = False, **settings: object
) -> EncoderParts:
    """The parts of an encoder that takes hidden states; ``settings`` are what else its spec says."""
    hidden = layers[0].qkv[0][1].in_features
    linears = [quantized_layer(layer, hidden, gated, quantize) for layer in layers]
    spec = {
        "embeddings": False,
        "hidden_size": hidden,
        "norm": norm,
        "gated": gated,
        "activation": one_of([activation_name(layer.activation) for layer in layers], "activation"),
        "eps": one_of([each.eps for layer in layers for each in layer.norms.values()], "LayerNorm eps"),
        **settings,
        "layers": [layer_spec(layer, own) for layer, own in zip(layers, linears, strict=True)],
    }
    parts = EncoderParts(spec)
    for part, layer, own in zip(parts.layers, layers, linears, strict=True):
        fill_layer(part, layer, own)
    return parts


def fill_layer(part: LayerParts, layer: Layer, linears: dict[str, Linear]) -> None:
    """Give the parts of a layer their linears and the values of their LayerNorms."""
    for name, linear in linears.items():
        setattr(part, name, linear)
    for name, norm in layer.norms.items():
        copy_norm(getattr(part, name), norm)


def check_parameters(module: nn.Module, used: Iterable[nn.Parameter]) -> None:
    """Unsupported when ``module`` has parameters that its native form is not made of: they do something else there."""
    known = {id(parameter) for parameter in used}
    left = [name for name, parameter in module.named_parameters() if id(parameter) not in known]
    if left:
        raise Unsupported(f"it has parameters that are not known of {type(module).__name__}: {', '.join(left)}")


def layer_spec(layer: Layer, linears: dict[str, Linear]) -> dict:
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


def activation_name(fn: object) -> str:
    """The native name of an activation: a module, or a function of torch."""
    kind = type(fn).__name__
    if isinstance(fn, nn.GELU):
        return "gelu_tanh" if fn.approximate == "tanh" else "gelu"
    if kind in _ACTIVATIONS:
        return _ACTIVATIONS[kind]
    for function, name in _FUNCTIONS:
        if fn is function:
            return name
    name = getattr(fn, "__name__", kind)
    raise Unsupported(f"its activation {name} has no kernel; known are {', '.join(sorted(_ACTIVATIONS))}")


def one_of(values: list, what: str):
    """The one value that all layers share; None for no layers."""
    if len(set(values)) > 1:
        raise Unsupported(f"its layers differ in {what}: {', '.join(map(str, sorted(set(values))))}")
    return values[0] if values else None


@torch.no_grad()
def copy_norm(to: nn.LayerNorm, source: nn.LayerNorm) -> None:
    if not isinstance(source, nn.LayerNorm) or source.weight is None:
        raise Unsupported("one of its normalisations is no LayerNorm with a weight")
    to.weight.copy_(source.weight)
    if source.bias is not None:
        to.bias.copy_(source.bias)
