"""Where the layers of other models of transformers keep their parts: one reader for each family of layers.

Nothing here imports transformers: a layer is recognised by the name and origin of its class. Layers of transformers 4
return tuples; those of transformers 5 do not, and only they are replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from kdnative.models.hf_families import bert_layer, bert_parts, distilbert_layer
from kdnative.models.layer_conversion import Layer, Unsupported
from kdnative.models.layer_sources import Source, pre_norms
from kdnative.nn.encoder_layer import can_record

__all__ = ["READERS", "knows", "read"]


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


def _vit(module: nn.Module) -> Source:
    norms = pre_norms(module.layernorm_before, module.layernorm_after)
    attention, mlp = ("attention", module.attention), ("mlp.", module.mlp)
    return Source(_layer(attention, "o_proj", mlp, ("fc1", "fc2"), norms, module.mlp.activation_fn))


def _clip(module: nn.Module) -> Source:
    norms = pre_norms(module.layer_norm1, module.layer_norm2)
    attention, mlp = ("self_attn", module.self_attn), ("mlp.", module.mlp)
    return Source(_layer(attention, "out_proj", mlp, ("fc1", "fc2"), norms, module.mlp.activation_fn))


def _siglip(module: nn.Module) -> Source:
    if type(module.self_attn.config).__name__ in ("SiglipTextConfig", "Siglip2TextConfig"):
        raise Unsupported(
            "its model takes the last token for the whole text, padding or not, and rows of masked tokens are 0 in a "
            "native layer"
        )
    return _clip(module)


def _dinov2(module: nn.Module, rotary: bool = False) -> Source:
    mlp, gated = module.mlp, hasattr(module.mlp, "gate_proj")
    names = ("fc1", "fc2") if hasattr(mlp, "fc1") else ("up_proj", "down_proj")
    activation = mlp.activation_fn if hasattr(mlp, "activation_fn") else mlp.act_fn
    norms, attention = pre_norms(module.norm1, module.norm2), ("attention", module.attention)
    return Source(
        _layer(attention, "o_proj", ("mlp.", mlp), ("gate_proj", *names) if gated else names, norms, activation),
        gated=gated,
        rotary=rotary,
        attention_scale=module.layer_scale1.lambda1,
        ffn_scale=module.layer_scale2.lambda1,
    )


def _dinov3(module: nn.Module) -> Source:
    return _dinov2(module, rotary=True)


def _esm(module: nn.Module) -> Source:
    own = module.attention.self
    if module.is_decoder:
        raise Unsupported("it is a layer of a decoder")
    layer = replace(
        bert_parts(module, "", pre_norms(module.attention.LayerNorm, module.LayerNorm), nn.GELU()),
        scaling=own.attention_head_size**-0.5,
    )
    return Source(layer, rotary=own.position_embedding_type == "rotary")


def _bart(module: nn.Module, norm: str = "post") -> Source:
    last = "output_norm" if norm == "post" else "ffn_norm"
    norms = {"attention_norm": module.self_attn_layer_norm, last: module.final_layer_norm}
    attention = ("self_attn", module.self_attn)
    return Source(_layer(attention, "out_proj", ("", module), ("fc1", "fc2"), norms, module.activation_fn), norm)


def _whisper(module: nn.Module) -> Source:
    return _bart(module, norm="pre")


def _wav2vec2(module: nn.Module) -> Source:
    norms = {"attention_norm": module.layer_norm, "output_norm": module.final_layer_norm}
    names, network = ("intermediate_dense", "output_dense"), module.feed_forward
    attention, ffn = ("attention", module.attention), ("feed_forward.", network)
    return Source(_layer(attention, "out_proj", ffn, names, norms, network.intermediate_act_fn), norm="post")


def _older_vit(module: nn.Module) -> Source:
    own, output = module.attention.attention, module.attention.output
    layer = Layer(
        [(f"attention.attention.{name}", getattr(own, name)) for name in ("query", "key", "value")],
        ("attention.output.dense", output.dense),
        [("intermediate.dense", module.intermediate.dense)],
        ("output.dense", module.output.dense),
        pre_norms(module.layernorm_before, module.layernorm_after),
        own.attention_head_size,
        own.scaling,
        module.intermediate.intermediate_act_fn,
    )
    return Source(layer)


def _blip(module: nn.Module) -> Source:
    own, mlp = module.self_attn, module.mlp
    layer = Layer(
        [("self_attn.qkv", own.qkv)],
        ("self_attn.projection", own.projection),
        [("mlp.fc1", mlp.fc1)],
        ("mlp.fc2", mlp.fc2),
        pre_norms(module.layer_norm1, module.layer_norm2),
        own.head_dim,
        own.scale,
        mlp.activation_fn,
    )
    return Source(layer)


def _bert(module: nn.Module) -> Source:
    if getattr(module, "is_decoder", False):
        raise Unsupported("it is a layer of a decoder")
    return Source(bert_layer(module, ""), norm="post")


def _distilbert(module: nn.Module) -> Source:
    return Source(distilbert_layer(module, ""), norm="post")


def _roberta_pre_norm(module: nn.Module) -> Source:
    if module.is_decoder:
        raise Unsupported("it is a layer of a decoder")
    norms = pre_norms(module.attention.LayerNorm, module.intermediate.LayerNorm)
    return Source(bert_parts(module, "", norms, module.intermediate.intermediate_act_fn))


def _xlm_roberta_xl(module: nn.Module) -> Source:
    if module.is_decoder:
        raise Unsupported("it is a layer of a decoder")
    norms = pre_norms(module.attention.self_attn_layer_norm, module.LayerNorm)
    return Source(bert_parts(module, "", norms, module.intermediate.intermediate_act_fn))


def _albert(module: nn.Module) -> Source:
    own = module.attention
    layer = Layer(
        [(f"attention.{name}", getattr(own, name)) for name in ("query", "key", "value")],
        ("attention.dense", own.dense),
        [("ffn", module.ffn)],
        ("ffn_output", module.ffn_output),
        {"attention_norm": own.LayerNorm, "output_norm": module.full_layer_layer_norm},
        own.attention_head_size,
        own.scaling,
        module.activation,
    )
    return Source(layer, norm="post")


_FAMILIES: dict[Callable[[nn.Module], Source], tuple[str, ...]] = {
    _vit: ("ViTLayer", "DeiTLayer", "ViTMAELayer", "ViTMSNLayer", "ASTLayer", "IJepaLayer", "PixioLayer", "VivitLayer"),
    _older_vit: ("DPTViTLayer", "YolosLayer"),
    _clip: (
        "AltCLIPEncoderLayer",
        "CLIPEncoderLayer",
        "CLIPSegEncoderLayer",
        "ChineseCLIPVisionLayer",
        "GitVisionEncoderLayer",
        "GraniteDoclingEncoderLayer",
        "Idefics2EncoderLayer",
        "Idefics3EncoderLayer",
        "Kosmos2VisionEncoderLayer",
        "MetaClip2EncoderLayer",
        "OwlViTEncoderLayer",
        "Owlv2EncoderLayer",
        "SmolVLMEncoderLayer",
        "XCLIPEncoderLayer",
    ),
    _siglip: ("Siglip2EncoderLayer", "SiglipEncoderLayer"),
    _blip: ("Blip2EncoderLayer", "BlipEncoderLayer", "InstructBlipEncoderLayer"),
    _dinov3: ("DINOv3ViTLayer",),
    _esm: ("EsmLayer",),
    _dinov2: ("Dinov2Layer", "Dinov2WithRegistersLayer", "RadioLayer"),
    _whisper: (
        "AudioFlamingo3EncoderLayer",
        "BlenderbotEncoderLayer",
        "M2M100EncoderLayer",
        "MBartEncoderLayer",
        "PegasusEncoderLayer",
        "Qwen2AudioEncoderLayer",
        "Speech2TextEncoderLayer",
        "VoxtralEncoderLayer",
        "WhisperEncoderLayer",
    ),
    _bart: (
        "BartEncoderLayer",
        "BlenderbotSmallEncoderLayer",
        "MarianEncoderLayer",
        "PLBartEncoderLayer",
        "TimeSeriesTransformerEncoderLayer",
    ),
    _wav2vec2: (
        "Data2VecAudioEncoderLayer",
        "HubertEncoderLayer",
        "SEWEncoderLayer",
        "UniSpeechEncoderLayer",
        "UniSpeechSatEncoderLayer",
        "Wav2Vec2EncoderLayer",
    ),
    _bert: (
        "AlignTextLayer",
        "AltRobertaLayer",
        "BertGenerationLayer",
        "BertLayer",
        "BridgeTowerTextLayer",
        "CamembertLayer",
        "ChineseCLIPTextLayer",
        "ClapTextLayer",
        "Data2VecTextLayer",
        "ElectraLayer",
        "ErnieLayer",
        "LayoutLMLayer",
        "MarkupLMLayer",
        "RoCBertLayer",
        "RobertaLayer",
        "SplinterLayer",
        "XLMRobertaLayer",
    ),
    _distilbert: ("TransformerBlock",),
    _roberta_pre_norm: ("RobertaPreLayerNormLayer",),
    _xlm_roberta_xl: ("XLMRobertaXLLayer",),
    _albert: ("AlbertLayer",),
}
READERS = {name: reader for reader, names in _FAMILIES.items() for name in names}
"""By the name of the class of the layer."""


def knows(module: nn.Module) -> bool:
    """Whether ``module`` is of a class that :func:`read` knows."""
    return type(module).__module__.startswith("transformers.models.") and type(module).__name__ in READERS


def read(module: nn.Module) -> Source:
    """The parts of a layer for which :func:`knows` holds; Unsupported where it has others, or returns tuples."""
    version = sys.modules["transformers"].__version__
    if int(version.partition(".")[0]) < 5 or not can_record():
        raise Unsupported(f"layers of {type(module).__name__} are fused with transformers 5 on, and this is {version}")
    return READERS[type(module).__name__](module)
