"""Where the layers of vision libraries keep their parts: timm, torchvision and OpenCLIP.

Nothing here imports them: a layer is recognised by the name and origin of its class.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdnative.models.layer_conversion import Layer, Named, Unsupported
from kdnative.models.layer_sources import Source, pre_norms
from kdnative.models.torch_attention import projections

__all__ = ["READERS", "knows", "read"]


def knows(module: nn.Module) -> bool:
    """Whether ``module`` is of a class that :func:`read` knows."""
    return _key(module) in READERS


def read(module: nn.Module) -> Source:
    """The parts of a layer for which :func:`knows` holds; Unsupported or AttributeError where it has others."""
    return READERS[_key(module)](module)


def _key(module: nn.Module) -> tuple[str, str]:
    cls = type(module)
    return cls.__module__, cls.__name__


# -- timm ------------------------------------------------------------------------------------------------------------


def _timm(module: nn.Module) -> Source:
    qkv, (attention_scale, ffn_scale) = [("attn.qkv", module.attn.qkv)], map(_factors, (module.ls1, module.ls2))
    return _timm_source(module, "Attention", qkv, attention_scale=attention_scale, ffn_scale=ffn_scale)


def _eva(module: nn.Module) -> Source:
    attention, scales = module.attn, {"attention_scale": module.gamma_1, "ffn_scale": module.gamma_2}
    if not getattr(attention, "rotate_half", False):
        raise Unsupported("its rotary positions turn neighbours, or it has none; only those of halves are supported")
    if attention.qkv is None:
        qkv, inside = [(f"attn.{name}", getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj")], ()
    else:
        qkv, inside = [("attn.qkv", _eva_qkv(attention))], _eva_biases(attention)
    return _timm_source(module, "EvaAttention", qkv, rotary=True, inside=inside, **scales)


def _timm_source(module: nn.Module, attention_kind: str, qkv: list[Named], **settings: object) -> Source:
    attention, mlp = module.attn, module.mlp
    _require(attention, attention_kind, q_norm=nn.Identity, k_norm=nn.Identity, norm=nn.Identity, gate=type(None))
    gated, ffn_in, activation = _timm_mlp(mlp)
    layer = Layer(
        qkv,
        ("attn.proj", attention.proj),
        ffn_in,
        ("mlp.fc2", mlp.fc2),
        pre_norms(module.norm1, module.norm2),
        attention.head_dim,
        attention.scale,
        activation,
    )
    return Source(layer, gated=gated, **settings)


def _eva_biases(attention: nn.Module) -> tuple[nn.Parameter, ...]:
    return () if attention.q_bias is None else (attention.q_bias, attention.v_bias)


def _eva_qkv(attention: nn.Module) -> nn.Linear:
    """Queries, keys and values, of which the first and last have a bias apart from their linear."""
    biases = _eva_biases(attention)
    if not biases:
        return attention.qkv
    linear = nn.Linear(attention.qkv.in_features, attention.qkv.out_features, device="meta")
    linear.weight = attention.qkv.weight
    linear.bias = nn.Parameter(torch.cat([biases[0], attention.k_bias, biases[1]]).detach())
    return linear


def _timm_mlp(mlp: nn.Module) -> tuple[bool, list[Named], object]:
    """Whether it is gated, its first linears, and its activation."""
    kind = type(mlp).__name__
    _require(mlp, ("Mlp", "GluMlp", "SwiGLU"), norm=nn.Identity)
    if kind == "SwiGLU":
        return True, [("mlp.fc1_g", mlp.fc1_g), ("mlp.fc1_x", mlp.fc1_x)], mlp.act
    if type(mlp.fc1) is nn.Conv2d:
        raise Unsupported("its feed-forward network is made of convolutions")
    if kind == "GluMlp" and mlp.gate_last:
        raise Unsupported("the second half of its feed-forward network is the gate, not the first")
    return kind == "GluMlp", [("mlp.fc1", mlp.fc1)], mlp.act


def _require(part: nn.Module, kinds: str | tuple[str, ...], **children: type) -> None:
    """Unsupported unless ``part`` is of one of these classes and its children, if it has them, of those."""
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if type(part).__name__ not in kinds:
        raise Unsupported(f"it has a {type(part).__name__} where {' or '.join(kinds)} is known")
    for name, kind in children.items():
        child = getattr(part, name, None)
        if not isinstance(child, (kind, type(None))):
            raise Unsupported(f"its {type(part).__name__} has a {name}, {type(child).__name__}, which has no kernel")


def _factors(scale: nn.Module) -> Tensor | None:
    """What a layer scale multiplies by; None where there is no such module."""
    return None if isinstance(scale, nn.Identity) else scale.gamma


# -- around nn.MultiheadAttention ------------------------------------------------------------------------------------


def _around_torch(
    name: str,
    attention: nn.MultiheadAttention,
    ffn_in: Named,
    ffn_out: Named,
    norms: dict[str, nn.LayerNorm],
    activation: object,
) -> Layer:
    if not attention.batch_first:
        raise Unsupported(f"{name} has the batch in its second dimension")
    qkv, output = projections(name, attention)
    scaling = attention.head_dim**-0.5
    return Layer([qkv], output, [ffn_in], ffn_out, norms, attention.head_dim, scaling, activation)


def _torchvision(module: nn.Module) -> Source:
    kinds = [type(part) for part in module.mlp]
    if kinds != [nn.Linear, nn.GELU, nn.Dropout, nn.Linear, nn.Dropout]:
        raise Unsupported(f"its mlp is {', '.join(kind.__name__ for kind in kinds)}")
    norms = pre_norms(module.ln_1, module.ln_2)
    ffn_in, ffn_out = ("mlp.0", module.mlp[0]), ("mlp.3", module.mlp[3])
    return Source(_around_torch("self_attention", module.self_attention, ffn_in, ffn_out, norms, module.mlp[1]))


def _open_clip(module: nn.Module) -> Source:
    if hasattr(module, "ln_1_kv"):
        raise Unsupported("its keys and values are those of other tokens")
    if module.mlp.c_fc.weight.dtype != torch.float32:
        raise Unsupported("OpenCLIP goes on in the dtype of its weights, which a native layer has for float32 only")
    norms = pre_norms(module.ln_1, module.ln_2)
    ffn_in, ffn_out = ("mlp.c_fc", module.mlp.c_fc), ("mlp.c_proj", module.mlp.c_proj)
    layer = _around_torch("attn", module.attn, ffn_in, ffn_out, norms, module.mlp.gelu)
    return Source(layer, attention_scale=_factors(module.ls_1), ffn_scale=_factors(module.ls_2))


READERS: dict[tuple[str, str], Callable[[nn.Module], Source]] = {
    ("timm.models.vision_transformer", "Block"): _timm,
    ("timm.models.eva", "EvaBlock"): _eva,
    ("torchvision.models.vision_transformer", "EncoderBlock"): _torchvision,
    ("open_clip.transformer", "ResidualAttentionBlock"): _open_clip,
}
"""By the origin and name of the class of the layer."""
