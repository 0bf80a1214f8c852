"""Where the layers of other models of transformers keep their parts: one reader for each family of layers.

Nothing here imports transformers: a layer is recognised by the name and origin of its class. Layers of transformers 4
return tuples; those of transformers 5 do not, and only they are replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kdnative.nn.encoder_layer import EncoderLayer, can_record
from kdnative.nn.layer_conversion import (
    Layer,
    Named,
    Quantize,
    Unsupported,
    layers_alone,
)

__all__ = ["is_layer", "layer_from_hf"]


@dataclass(frozen=True)
class _Source:
    """``attention_scale`` and ``ffn_scale``: factors of what either part adds to the hidden states, ``[H]`` or None."""

    layer: Layer
    norm: str = "pre"
    gated: bool = False
    attention_scale: Tensor | None = None
    ffn_scale: Tensor | None = None


def _layer(
    attention: tuple[str, nn.Module],
    output: str,
    ffn: tuple[str, nn.Module],
    ffn_names: tuple[str, ...],
    norms: dict[str, nn.LayerNorm],
    activation: object,
) -> Layer:
    """Attention with q_proj, k_proj and v_proj, and linears of a feed-forward network, the last of them its output."""
    (prefix, own), (ffn_prefix, network) = attention, ffn
    linears = [(ffn_prefix + name, getattr(network, name)) for name in ffn_names]
    return Layer(
        [(f"{prefix}.{name}", getattr(own, name)) for name in ("q_proj", "k_proj", "v_proj")],
        (f"{prefix}.{output}", getattr(own, output)),
        linears[:-1],
        linears[-1],
        norms,
        own.head_dim,
        own.scaling if hasattr(own, "scaling") else own.scale,
        activation,
    )


def _pre(attention: nn.LayerNorm, ffn: nn.LayerNorm) -> dict[str, nn.LayerNorm]:
    return {"attention_norm": attention, "ffn_norm": ffn}


def _vit(module: nn.Module) -> _Source:
    norms = _pre(module.layernorm_before, module.layernorm_after)
    attention, mlp = ("attention", module.attention), ("mlp.", module.mlp)
    return _Source(_layer(attention, "o_proj", mlp, ("fc1", "fc2"), norms, module.mlp.activation_fn))


def _clip(module: nn.Module) -> _Source:
    norms = _pre(module.layer_norm1, module.layer_norm2)
    attention, mlp = ("self_attn", module.self_attn), ("mlp.", module.mlp)
    return _Source(_layer(attention, "out_proj", mlp, ("fc1", "fc2"), norms, module.mlp.activation_fn))


def _dinov2(module: nn.Module) -> _Source:
    mlp, gated = module.mlp, hasattr(module.mlp, "gate_proj")
    names = ("gate_proj", "up_proj", "down_proj") if gated else ("fc1", "fc2")
    activation = mlp.act_fn if gated else mlp.activation_fn
    norms, attention = _pre(module.norm1, module.norm2), ("attention", module.attention)
    return _Source(
        _layer(attention, "o_proj", ("mlp.", mlp), names, norms, activation),
        gated=gated,
        attention_scale=module.layer_scale1.lambda1,
        ffn_scale=module.layer_scale2.lambda1,
    )


def _bart(module: nn.Module, norm: str = "post") -> _Source:
    last = "output_norm" if norm == "post" else "ffn_norm"
    norms = {"attention_norm": module.self_attn_layer_norm, last: module.final_layer_norm}
    attention = ("self_attn", module.self_attn)
    return _Source(_layer(attention, "out_proj", ("", module), ("fc1", "fc2"), norms, module.activation_fn), norm)


def _whisper(module: nn.Module) -> _Source:
    return _bart(module, norm="pre")


def _wav2vec2(module: nn.Module) -> _Source:
    norms = {"attention_norm": module.layer_norm, "output_norm": module.final_layer_norm}
    names, network = ("intermediate_dense", "output_dense"), module.feed_forward
    attention, ffn = ("attention", module.attention), ("feed_forward.", network)
    return _Source(_layer(attention, "out_proj", ffn, names, norms, network.intermediate_act_fn), norm="post")


_READERS: dict[str, Callable[[nn.Module], _Source]] = {
    "ViTLayer": _vit,
    "DeiTLayer": _vit,
    "ViTMAELayer": _vit,
    "ViTMSNLayer": _vit,
    "ASTLayer": _vit,
    "CLIPEncoderLayer": _clip,
    "SiglipEncoderLayer": _clip,
    "Siglip2EncoderLayer": _clip,
    "Dinov2Layer": _dinov2,
    "Dinov2WithRegistersLayer": _dinov2,
    "WhisperEncoderLayer": _whisper,
    "M2M100EncoderLayer": _whisper,
    "MBartEncoderLayer": _whisper,
    "PegasusEncoderLayer": _whisper,
    "BartEncoderLayer": _bart,
    "MarianEncoderLayer": _bart,
    "Wav2Vec2EncoderLayer": _wav2vec2,
    "HubertEncoderLayer": _wav2vec2,
}
"""By the name of the class of the layer."""


def is_layer(module: nn.Module) -> bool:
    """Whether ``module`` is a layer that :func:`layer_from_hf` knows."""
    return type(module).__module__.startswith("transformers.models.") and type(module).__name__ in _READERS


def layer_from_hf(module: nn.Module, quantize: Quantize) -> EncoderLayer | str:
    """Rebuild a layer of transformers as a native one; ``module`` is not changed.

    Args:
        module: a layer for which :func:`is_layer` holds.
        quantize: see :data:`kdnative.nn.layer_conversion.Quantize`.

    Returns:
        The native layer, or the reason in words why there can be none.
    """
    try:
        return _convert(module, quantize)
    except Unsupported as reason:
        return str(reason)


def _convert(module: nn.Module, quantize: Quantize) -> EncoderLayer:
    version = sys.modules["transformers"].__version__
    if int(version.partition(".")[0]) < 5 or not can_record():
        raise Unsupported(f"layers of {type(module).__name__} are fused with transformers 5 on, and this is {version}")
    try:
        source = _READERS[type(module).__name__](module)
    except AttributeError as error:
        raise Unsupported(f"its parts are not those that are known of {type(module).__name__}: {error}") from error
    layer = _with_silu(_without_scales(source))
    return EncoderLayer.from_parts(layers_alone([layer], quantize, norm=source.norm, gated=source.gated))


def _without_scales(source: _Source) -> Layer:
    """The layer with its factors in the linears before them."""
    layer = source.layer
    if source.attention_scale is not None:
        layer = replace(layer, output=_scaled(layer.output, source.attention_scale))
    if source.ffn_scale is not None:
        layer = replace(layer, ffn_out=_scaled(layer.ffn_out, source.ffn_scale))
    return layer


def _with_silu(layer: Layer) -> Layer:
    """x sigmoid(1.702 x), the "quick GELU" of CLIP, is silu(1.702 x) / 1.702: the factors go into the linears."""
    if type(layer.activation).__name__ != "QuickGELUActivation":
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
    if type(linear) is not nn.Linear:
        raise Unsupported(f"{name} has a factor behind it, which a {type(linear).__name__} can't take in")
    scaled = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    factor = factor.double()
    scaled.weight = nn.Parameter((linear.weight.double() * factor.view(-1, 1)).float())
    if linear.bias is not None:
        scaled.bias = nn.Parameter((linear.bias.double() * factor).float())
    return name, scaled
