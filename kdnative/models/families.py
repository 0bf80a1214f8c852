"""The table of families: where the layers of transformers, timm, torchvision and OpenCLIP keep their parts.

A new family is a row here (docs/adding_a_family.md), or one that a user registers. :mod:`kdnative.models.reading` and
:mod:`kdnative.models.stacks` read the rows. ``checkpoint`` of a row is part of the reviewed list of what a checkpoint
may have built, see :mod:`kdnative.checkpoint.allowed`.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from kdnative.models import hooks
from kdnative.models.family import BaseModel, Family, add

__all__ = ["TABLE"]

# fmt: off
_POOLED = "BaseModelOutputWithPooling"
_CROSS = "BaseModelOutputWithPoolingAndCrossAttentions"
_HEADS_BY_NUMBER = "its attention takes the width of a head from the number of heads"
_TORCH_ATTENTION = "nn.MultiheadAttention takes the width of its heads from that of the model"

# -- texts -----------------------------------------------------------------------------------------------------------

_BERT_MODEL = BaseModel(layers="encoder.layer", check=hooks.bert_model)

BERT = Family(
    name="BERT",
    layers=(
        "AlignTextLayer", "BertGenerationLayer", "BertLayer", "BridgeTowerTextLayer", "ChineseCLIPTextLayer",
        "ElectraLayer", "ErnieLayer", "LayoutLMLayer", "MarkupLMLayer", "RoCBertLayer", "SplinterLayer",
    ),
    attention="attention.self", qkv=("query", "key", "value"), output="attention.output.dense",
    up="intermediate.dense", down="output.dense", norm="post", attention_norm="attention.output.LayerNorm",
    ffn_norm="output.LayerNorm", activation="intermediate.intermediate_act_fn", scaling="scaling?",
    check=hooks.no_decoder, by_parts=True,
    models={
        "BertModel": _CROSS,
        "ElectraModel": "BaseModelOutputWithPastAndCrossAttentions",
        "SplinterModel": "BaseModelOutput",
        "AlignTextModel": _POOLED,
        "ChineseCLIPTextModel": _POOLED,
    },
    base=_BERT_MODEL,
    checkpoint=(
        "align", "align_text_model", "align_vision_model", "bert", "bert-generation", "bridgetower",
        "bridgetower_text_model", "bridgetower_vision_model", "dpr", "electra", "ernie", "layoutlm", "markuplm",
        "roc_bert", "splinter",
    ),
)

ROBERTA = replace(
    BERT,
    name="RoBERTa",
    layers=(
        "AltRobertaLayer",
        "CamembertLayer",
        "ClapTextLayer",
        "Data2VecTextLayer",
        "RobertaLayer",
        "XLMRobertaLayer",
    ),
    by_parts=False,
    models={
        "RobertaModel": _CROSS,
        "XLMRobertaModel": _CROSS,
        "CamembertModel": _CROSS,
        "Data2VecTextModel": _CROSS,
        "ClapTextModel": _POOLED,
    },
    base=replace(_BERT_MODEL, padding_id="embeddings.padding_idx"),
    checkpoint=("camembert", "clap", "clap_audio_model", "clap_text_model", "data2vec-text", "roberta", "xlm-roberta"),
)

ROBERTA_PRE_NORM = replace(
    BERT,
    name="RoBERTa with LayerNorm before each part", layers=("RobertaPreLayerNormLayer",), norm="pre",
    attention_norm="attention.LayerNorm", ffn_norm="intermediate.LayerNorm", by_parts=False, models={}, base=None,
    checkpoint=("roberta-prelayernorm",),
)

XLM_ROBERTA_XL = replace(
    ROBERTA_PRE_NORM,
    name="XLM-RoBERTa-XL", layers=("XLMRobertaXLLayer",), attention_norm="attention.self_attn_layer_norm",
    ffn_norm="LayerNorm", checkpoint=("xlm-roberta-xl",),
)

ESM = replace(
    ROBERTA_PRE_NORM,
    name="ESM", layers=("EsmLayer",), ffn_norm="LayerNorm", activation=nn.GELU(), scaling=None,
    rotary=hooks.turns_queries, checkpoint=("esm",),
)

ALBERT = Family(
    name="ALBERT", layers=("AlbertLayer",), attention="attention", qkv=("query", "key", "value"),
    output="attention.dense", up="ffn", down="ffn_output", norm="post", attention_norm="attention.LayerNorm",
    ffn_norm="full_layer_layer_norm", activation="activation",
    layers_stay="one layer runs again and again: set config.num_hidden_layers", checkpoint=("albert",),
)

DISTILBERT = Family(
    name="DistilBERT", layers=("TransformerBlock",), origin="transformers.models.distilbert", attention="attention",
    qkv=("q_lin", "k_lin", "v_lin"), output="attention.out_lin", up="ffn.lin1", down="ffn.lin2", norm="post",
    attention_norm="sa_layer_norm", ffn_norm="output_layer_norm", activation="ffn.activation",
    head_dim="attention_head_size?", scaling="scaling?", ffn_size=("hidden_dim",), by_parts=True,
    models={"DistilBertModel": "BaseModelOutput"},
    base=BaseModel(layers="transformer.layer", token_type=None, pooler=None), checkpoint=("distilbert",),
)

MPNET = Family(
    name="MPNet", layers=("MPNetLayer",),
    alone=False,  # its model gives it biases by distance
    attention="attention.attn", qkv=("q", "k", "v"), output="attention.attn.o", up="intermediate.dense",
    down="output.dense", norm="post", attention_norm="attention.LayerNorm", ffn_norm="output.LayerNorm",
    activation="intermediate.intermediate_act_fn", scaling=None, by_parts=True, models={"MPNetModel": _POOLED},
    base=BaseModel(
        layers="encoder.layer",
        token_type=None,
        padding_id="embeddings.padding_idx",
        relative="relative_attention_bias",
        relative_distance=128,  # fixed in MPNetEncoder.relative_position_bucket
    ),
    checkpoint=("mpnet",),
)

MODERNBERT = Family(
    name="ModernBERT", layers=("ModernBertEncoderLayer",),
    alone=False,  # windows and rotary positions differ by layer
    attention="attn", qkv=("Wqkv",), output="attn.Wo", up="mlp.Wi", gated=True, down="mlp.Wo",
    attention_norm="attn_norm", ffn_norm="mlp_norm", activation="mlp.act", scaling=None,
    taken=hooks.modernbert_taken,
    models={"ModernBertModel": "BaseModelOutput"},
    base=BaseModel(
        layers="layers",
        word="embeddings.tok_embeddings",
        position=None,
        token_type=None,
        norm="embeddings.norm",
        final_norm="final_norm",
        pooler=None,
        positions=hooks.modernbert_positions,
    ),
    checkpoint=("modernbert",),
)

ROTARY_BERT = Family(
    name="BERT with rotary positions", layers=("GteLayer", "JinaEmbeddingsV3Layer", "NomicBertLayer"),
    alone=False,  # their rotary positions would have to be given
    attention="self_attn", output="self_attn.o_proj", up="mlp.up_proj|mlp.fc1", gate="mlp.gate_proj?",
    down="mlp.down_proj|mlp.fc2", norm="post", attention_norm="post_attention_layernorm",
    ffn_norm="post_mlp_layernorm", activation="mlp.act_fn|mlp.activation_fn",
    models={"NomicBertModel": _POOLED, "GteModel": _POOLED, "JinaEmbeddingsV3Model": _POOLED},
    base=BaseModel(layers="layers", position=None, positions=hooks.rotary_bert_positions),
    checkpoint=("gte", "jina_embeddings_v3", "nomic_bert"),
)

# -- images, and images with texts -----------------------------------------------------------------------------------

VIT = Family(  # some have the names of BERT inside, in transformers 4 all
    name="ViT", taken=hooks.stages_taken,
    layers=(
        "ASTLayer", "DeiTLayer", "DPTViTLayer", "IJepaLayer", "PixioLayer", "ViTLayer", "ViTMAELayer", "ViTMSNLayer",
        "VivitLayer",
    ),
    attention="attention.attention|attention", qkv=("q_proj|query", "k_proj|key", "v_proj|value"),
    output="attention.o_proj|attention.output.dense", up="mlp.fc1|intermediate.dense", down="mlp.fc2|output.dense",
    attention_norm="layernorm_before", ffn_norm="layernorm_after",
    activation="mlp.activation_fn|intermediate.intermediate_act_fn",
    checkpoint=(
        "audio-spectrogram-transformer", "deit", "dpt", "ijepa", "pixio", "vit", "vit_mae", "vit_msn", "vivit",
    ),
)

VIDEOMAE = replace(  # keys without a bias
    VIT, name="VideoMAE", layers=("VideoMAELayer",), checkpoint=("videomae",),
    attention="attention.attention", qkv=("query", "key", "value"), output="attention.output.dense",
    up="intermediate.dense", down="output.dense", activation="intermediate.intermediate_act_fn",
)

YOLOS = replace(
    VIT, name="YOLOS", layers=("YolosLayer",), checkpoint=("yolos",),
    layers_stay="positions are added between them, and each has its own",
)

DINOV2 = Family(
    name="DINOv2", layers=("Dinov2Layer", "Dinov2WithRegistersLayer", "RadioLayer"),
    attention="attention.attention|attention", qkv=("q_proj|query", "k_proj|key", "v_proj|value"),
    output="attention.o_proj|attention.output.dense", up="mlp.fc1|mlp.up_proj|mlp.weights_in",
    gate="mlp.gate_proj?", gated=hooks.dinov2_is_gated, down="mlp.fc2|mlp.down_proj|mlp.weights_out",
    attention_norm="norm1", ffn_norm="norm2", activation="mlp.activation_fn|mlp.act_fn",
    attention_scale="layer_scale1.lambda1", ffn_scale="layer_scale2.lambda1", taken=hooks.stages_taken,
    checkpoint=("dinov2", "dinov2_with_registers", "radio"),
)

DINOV3 = replace(DINOV2, name="DINOv3", layers=("DINOv3ViTLayer",), rotary=True, checkpoint=("dinov3_vit",))

CLIP = Family(
    name="CLIP",
    layers=(
        "AltCLIPEncoderLayer", "ChineseCLIPVisionLayer", "CLIPEncoderLayer", "CLIPSegEncoderLayer",
        "GitVisionEncoderLayer", "GraniteDoclingEncoderLayer", "Idefics2EncoderLayer", "Idefics3EncoderLayer",
        "Kosmos2VisionEncoderLayer", "MetaClip2EncoderLayer", "OwlViTEncoderLayer", "Owlv2EncoderLayer",
        "SmolVLMEncoderLayer", "XCLIPEncoderLayer",
    ),
    attention="self_attn", output="self_attn.out_proj", up="mlp.fc1", down="mlp.fc2", attention_norm="layer_norm1",
    ffn_norm="layer_norm2", activation="mlp.activation_fn",
    checkpoint=(
        "altclip", "altclip_text_model", "altclip_vision_model", "chinese_clip", "chinese_clip_text_model",
        "chinese_clip_vision_model", "clip", "clip_text_model", "clip_vision_model", "clipseg", "clipseg_text_model",
        "clipseg_vision_model", "git", "git_vision_model", "granite_docling", "granite_docling_text",
        "granite_docling_vision", "idefics2", "idefics2_perceiver", "idefics2_vision", "idefics3", "idefics3_vision",
        "kosmos-2", "kosmos_2_text_model", "kosmos_2_vision_model", "metaclip_2", "metaclip_2_text_model",
        "metaclip_2_vision_model", "owlv2", "owlv2_text_model", "owlv2_vision_model", "owlvit", "owlvit_text_model",
        "owlvit_vision_model", "smolvlm", "smolvlm_vision", "xclip", "xclip_text_model", "xclip_vision_model",
    ),
)

SIGLIP = replace(
    CLIP,
    name="SigLIP", layers=("Siglip2EncoderLayer", "SiglipEncoderLayer"), check=hooks.siglip,
    checkpoint=(
        "siglip", "siglip2", "siglip2_text_model", "siglip2_vision_model", "siglip_text_model", "siglip_vision_model",
    ),
)

BLIP = replace(
    CLIP,
    name="BLIP", layers=("Blip2EncoderLayer", "BlipEncoderLayer", "InstructBlipEncoderLayer"), qkv=("qkv",),
    output="self_attn.projection", heads_stay=_HEADS_BY_NUMBER,
    checkpoint=(
        "blip", "blip-2", "blip_2_qformer", "blip_2_vision_model", "blip_text_model", "blip_vision_model",
        "instructblip", "instructblip_qformer", "instructblip_vision_model",
    ),
)

# -- sequence to sequence, speech and sound --------------------------------------------------------------------------

BART = Family(
    name="BART",
    layers=(
        "BartEncoderLayer", "BlenderbotSmallEncoderLayer", "MarianEncoderLayer", "PLBartEncoderLayer",
        "TimeSeriesTransformerEncoderLayer",
    ),
    attention="self_attn", output="self_attn.out_proj", up="fc1", down="fc2", norm="post",
    attention_norm="self_attn_layer_norm", ffn_norm="final_layer_norm", activation="activation_fn",
    depth=("num_hidden_layers", "encoder_layers"), ffn_size=("encoder_ffn_dim",),
    checkpoint=("bart", "blenderbot-small", "marian", "plbart", "time_series_transformer"),
)

WHISPER = replace(
    BART,
    name="Whisper",
    layers=(
        "AudioFlamingo3EncoderLayer", "BlenderbotEncoderLayer", "M2M100EncoderLayer", "MBartEncoderLayer",
        "PegasusEncoderLayer", "Qwen2AudioEncoderLayer", "Speech2TextEncoderLayer", "VoxtralEncoderLayer",
        "WhisperEncoderLayer",
    ),
    norm="pre",
    checkpoint=(
        "audioflamingo3", "audioflamingo3_encoder", "blenderbot", "m2m_100", "mbart", "pegasus", "qwen2_audio",
        "qwen2_audio_encoder", "speech_to_text", "voxtral", "voxtral_encoder", "whisper",
    ),
)

WAV2VEC2 = Family(
    name="wav2vec 2.0",
    layers=(
        "Data2VecAudioEncoderLayer", "HubertEncoderLayer", "SEWEncoderLayer", "UniSpeechEncoderLayer",
        "UniSpeechSatEncoderLayer", "Wav2Vec2EncoderLayer",
    ),
    attention="attention", output="attention.out_proj", up="feed_forward.intermediate_dense",
    down="feed_forward.output_dense", norm="post", attention_norm="layer_norm", ffn_norm="final_layer_norm",
    activation="feed_forward.intermediate_act_fn",
    checkpoint=("data2vec-audio", "hubert", "sew", "unispeech", "unispeech-sat", "wav2vec2"),
)

# -- other libraries -------------------------------------------------------------------------------------------------

TIMM = Family(
    name="ViT of timm", layers=("Block",), origin="timm.models.vision_transformer", attention="attn", qkv=("qkv",),
    output="attn.proj", up="mlp.fc1_x|mlp.fc1", gate="mlp.fc1_g?", gated=hooks.timm_is_gated, down="mlp.fc2",
    attention_norm="norm1", ffn_norm="norm2", activation="mlp.act", attention_scale="ls1.gamma?",
    ffn_scale="ls2.gamma?", width=("attn_dim",), check=hooks.timm,
)

EVA = replace(
    TIMM,
    name="EVA of timm", layers=("EvaBlock",), origin="timm.models.eva", qkv=hooks.qkv_of_eva,
    attention_scale="gamma_1?", ffn_scale="gamma_2?", rotary=True, heads_stay="its biases are apart from its linears",
    check=hooks.timm_eva,
)

TORCHVISION = Family(
    name="ViT of torchvision", layers=("EncoderBlock",), origin="torchvision.models.vision_transformer",
    attention="self_attention", qkv=(), output="self_attention.out_proj", up="mlp.0", down="mlp.3",
    attention_norm="ln_1", ffn_norm="ln_2", activation="mlp.1", scaling=None, heads_stay=_TORCH_ATTENTION,
    check=hooks.torchvision,
)

OPEN_CLIP = replace(
    TORCHVISION,
    name="OpenCLIP", layers=("ResidualAttentionBlock",), origin="open_clip.transformer", attention="attn",
    output="attn.out_proj", up="mlp.c_fc", down="mlp.c_proj", activation="mlp.gelu", attention_scale="ls_1.gamma?",
    ffn_scale="ls_2.gamma?", check=hooks.open_clip,
)

TORCH = replace(
    TORCHVISION,
    name="nn.TransformerEncoder", layers=("TransformerEncoderLayer",), origin="torch.nn.modules.transformer",
    alone=False,  # kdnative.models.torch_encoder makes the whole encoder, or a layer, one operator
    attention="self_attn", output="self_attn.out_proj", up="linear1", down="linear2", norm=hooks.norm_of_torch,
    attention_norm="norm1", ffn_norm="norm2", activation="activation", check=None,
)

TABLE = (
    BERT, ROBERTA, ROBERTA_PRE_NORM, XLM_ROBERTA_XL, ESM, ALBERT, DISTILBERT, MPNET, MODERNBERT, ROTARY_BERT, VIT,
    VIDEOMAE, YOLOS, DINOV2, DINOV3, CLIP, SIGLIP, BLIP, BART, WHISPER, WAV2VEC2, TIMM, EVA, TORCHVISION, OPEN_CLIP,
    TORCH,
)
"""The built-in families."""

for _family in TABLE:
    add(_family)
