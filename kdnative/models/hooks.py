"""What families of models compute, where no path says it: refusals, and linears or positions that are put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kdnative.models.layer import Named, Unsupported

__all__ = [
    "bert_model",
    "dinov2_is_gated",
    "modernbert_positions",
    "modernbert_taken",
    "no_decoder",
    "norm_of_torch",
    "open_clip",
    "qkv_of_eva",
    "rotary_bert_positions",
    "siglip",
    "stages_taken",
    "timm",
    "timm_eva",
    "timm_is_gated",
    "torchvision",
    "turns_queries",
]


# -- transformers ----------------------------------------------------------------------------------------------------


def no_decoder(layer: nn.Module) -> None:
    """Layers of BERT's kind may be those of a decoder."""
    if getattr(layer, "is_decoder", False):
        raise Unsupported("it is a layer of a decoder")


def bert_model(model: nn.Module) -> None:
    """A base model of BERT's kind may be a decoder, and have other positions or embeddings of another width."""
    settings = model.config
    if hasattr(model, "embeddings_project"):
        raise Unsupported("its embeddings have another width than its layers (embeddings_project)")
    if getattr(settings, "is_decoder", False) or getattr(settings, "add_cross_attention", False):
        raise Unsupported("it is a decoder, or has cross attention")
    if getattr(settings, "position_embedding_type", "absolute") not in ("absolute", None):
        raise Unsupported(f"it has {settings.position_embedding_type} positions; only absolute ones are supported")


def dinov2_is_gated(layer: nn.Module) -> bool:
    """Whether the first linear holds the gate too, as in transformers 4."""
    return hasattr(layer.mlp, "weights_in")


def siglip(layer: nn.Module) -> None:
    """The text towers of SigLIP look at tokens that native layers leave at 0."""
    if type(layer.self_attn.config).__name__ in ("SiglipTextConfig", "Siglip2TextConfig"):
        raise Unsupported(
            "its model takes the last token for the whole text, padding or not, and rows of masked tokens are 0 in a "
            "native layer"
        )


def stages_taken(config: Any, kept: list[int]) -> Mapping[str, Any]:
    """The stages of a backbone, one a layer after the stem, and those that it returns; the last stays the last."""
    names, wanted = getattr(config, "stage_names", None), getattr(config, "_out_indices", None)
    if not names:
        return {}
    places = {0: 0, **{layer + 1: place + 1 for place, layer in enumerate(kept)}}
    places.setdefault(len(names) - 1, len(kept))
    wanted = [i % len(names) for i in wanted or [len(names) - 1]]
    if gone := [names[i] for i in wanted if i not in places]:
        raise ValueError(
            f"layers={kept}: {', '.join(gone)} would be gone, which the configuration returns (out_indices)"
        )
    left, out = names[: len(kept) + 1], sorted({places[i] for i in wanted})
    return {"stage_names": left, "_out_indices": out, "_out_features": [left[i] for i in out]}


def turns_queries(layer: nn.Module) -> bool:
    """Whether a layer of ESM has rotary positions."""
    return layer.attention.self.position_embedding_type == "rotary"


def rotary_bert_positions(model: nn.Module) -> list[tuple[int | None, float | None]]:
    """The same rotary positions in every layer (NomicBERT, GTE, Jina v3)."""
    settings = model.config
    theta = _rope_theta(getattr(settings, "rope_parameters", None), getattr(settings, "default_theta", None))
    return [(None, theta)] * len(model.layers)


_OLDER_THETA = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
"""Kinds of attention in ModernBERT, and where configurations of transformers 4 have the base of their positions."""


def modernbert_positions(model: nn.Module) -> list[tuple[int | None, float | None]]:
    """Global and local attention, each with rotary positions of its own (Warner et al. 2024)."""
    settings, found = model.config, []
    for i, kind in enumerate(_kinds(settings, len(model.layers))):
        if kind not in _OLDER_THETA:
            raise Unsupported(f"layers.{i}.attn has attention of type {kind!r}; known are {', '.join(_OLDER_THETA)}")
        parameters = (getattr(settings, "rope_parameters", None) or {}).get(kind)
        window = settings.local_attention // 2 if kind == "sliding_attention" else None
        found.append((window, _rope_theta(parameters, getattr(settings, _OLDER_THETA[kind], None))))
    if not found:
        raise Unsupported("it has no layers")
    return found


def modernbert_taken(config: Any, kept: list[int]) -> Mapping[str, Any]:
    """The kinds of attention of the layers that are left: a list, or in transformers 4 every how many are global."""
    kinds = _kinds(config, kept[-1] + 1)
    left = [kinds[i] for i in kept]
    if getattr(config, "layer_types", None):
        return {"layer_types": left}
    for every in range(1, len(left) + 1):
        if left == _kinds_of(every, len(left)):
            return {"global_attn_every_n_layers": every}
    raise ValueError(
        f"layers={kept} of ModernBERT have {', '.join(kind.partition('_')[0] for kind in left)} attention, and its "
        "configuration can only say that every n-th layer has full attention, the first among them: keep others, or "
        "use transformers 5, whose configurations list them"
    )


def _kinds(config: Any, layers: int) -> list[str]:
    return getattr(config, "layer_types", None) or _kinds_of(getattr(config, "global_attn_every_n_layers", 3), layers)


def _kinds_of(every: int, layers: int) -> list[str]:
    return ["sliding_attention" if i % every else "full_attention" for i in range(layers)]


def _rope_theta(parameters: dict | None, fallback: float | None) -> float:
    """The base of rotary positions from a config's ``rope_parameters``; ``fallback`` is what older configs say."""
    parameters = parameters or {}
    kind = parameters.get("rope_type", "default")
    if kind != "default":
        raise Unsupported(f"its rotary positions are of type {kind!r}; only the default type is supported")
    theta = parameters.get("rope_theta", fallback)
    if theta is None:
        raise Unsupported("its config does not say the base of its rotary positions (rope_theta)")
    return float(theta)


# -- timm ------------------------------------------------------------------------------------------------------------


def timm(block: nn.Module) -> None:
    """A block of timm's ViT may have norms inside, and other classes of parts."""
    _timm_parts(block, "Attention")


def timm_eva(block: nn.Module) -> None:
    """Blocks of EVA are known with rotary positions that turn halves, as in DINOv3."""
    if not getattr(block.attn, "rotate_half", False):
        raise Unsupported("its rotary positions turn neighbours, or it has none; only those of halves are supported")
    _timm_parts(block, "EvaAttention")


def timm_is_gated(block: nn.Module) -> bool:
    """Whether the first linear of a feed-forward network holds the gate too."""
    return type(block.mlp).__name__ == "GluMlp"


def qkv_of_eva(attention: nn.Module) -> tuple[list[Named], tuple[nn.Parameter, ...]]:
    """Three linears; or one, of which the queries and values may have a bias apart from it."""
    if attention.qkv is None:
        return [(name, getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj")], ()
    if attention.q_bias is None:
        return [("qkv", attention.qkv)], ()
    linear = nn.Linear(attention.qkv.in_features, attention.qkv.out_features, device="meta")
    linear.weight = attention.qkv.weight
    biases = [attention.q_bias, attention.k_bias, attention.v_bias]
    linear.bias = nn.Parameter(torch.cat(biases).detach())
    return [("qkv", linear)], (attention.q_bias, attention.v_bias)


def _timm_parts(block: nn.Module, kind: str) -> None:
    _require(block.attn, kind, q_norm=nn.Identity, k_norm=nn.Identity, norm=nn.Identity, gate=type(None))
    _require(block.mlp, ("Mlp", "GluMlp", "SwiGLU"), norm=nn.Identity)
    if type(getattr(block.mlp, "fc1", None)) is nn.Conv2d:
        raise Unsupported("its feed-forward network is made of convolutions")
    if timm_is_gated(block) and block.mlp.gate_last:
        raise Unsupported("the second half of its feed-forward network is the gate, not the first")


def _require(part: nn.Module, kinds: str | tuple[str, ...], **children: type) -> None:
    """Unsupported unless ``part`` is of one of these classes and its children, if it has them, of those."""
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if type(part).__name__ not in kinds:
        raise Unsupported(f"it has a {type(part).__name__} where {' or '.join(kinds)} is known")
    for name, kind in children.items():
        child = getattr(part, name, None)
        if not isinstance(child, (kind, type(None))):
            raise Unsupported(f"its {type(part).__name__} has a {name}, {type(child).__name__}, which has no kernel")


# -- torch, torchvision and OpenCLIP ---------------------------------------------------------------------------------


def norm_of_torch(layer: nn.Module) -> str:
    """Whether a layer of torch normalises what its parts read, or their sums."""
    return "pre" if layer.norm_first else "post"


def torchvision(block: nn.Module) -> None:
    """The feed-forward network of torchvision is a sequence of any modules."""
    kinds = [type(part) for part in block.mlp]
    if kinds != [nn.Linear, nn.GELU, nn.Dropout, nn.Linear, nn.Dropout]:
        raise Unsupported(f"its mlp is {', '.join(kind.__name__ for kind in kinds)}")


def open_clip(block: nn.Module) -> None:
    """Blocks of OpenCLIP may attend to other tokens, and compute in the dtype of their weights."""
    if hasattr(block, "ln_1_kv"):
        raise Unsupported("its keys and values are those of other tokens")
    if block.mlp.c_fc.weight.dtype != torch.float32:
        raise Unsupported("OpenCLIP goes on in the dtype of its weights, which a native layer has for float32 only")
