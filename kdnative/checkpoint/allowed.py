"""Which models of transformers a file may have built.

A checkpoint names a class and a configuration, and building it runs the constructors of both: code of transformers that
was not written for hostile input. Some of these read other repositories, ask whether code from there may run, or load
kernels. So a type is here only after its constructors have been read, in the oldest and the newest version that are
supported: they build modules out of numbers. ``tests/checkpoint/test_allowed.py`` reads and builds each one again.
A type that the installed transformers lacks is unknown there; models of types that are not here are built in the
caller's code, and filled: ``load(path, into=model)``.

Types of families that the library knows are in their rows (``checkpoint`` in :mod:`kdnative.models.families`), the
others here; each is in one place. What is registered at run time adds nothing.
"""

from __future__ import annotations

from kdnative.models.families import TABLE

__all__ = ["ATTENTION", "MODEL_TYPES", "MODEL_TYPES_BY_GROUP"]

ATTENTION = frozenset({None, "eager", "flex_attention", "sdpa"})
"""How a model from a file may compute attention: what transformers has itself. Other names load kernels."""

MODEL_TYPES_BY_GROUP: dict[str, tuple[str, ...]] = {
    # Fused. Their parts have types of their own; where a part may be of any type, it is one of this list.
    **{family.name: family.checkpoint for family in TABLE if family.checkpoint},
    # The rest is common, and converted linear by linear.
    "other encoders of texts": (
        "big_bird",
        "canine",
        "convbert",
        "deberta",
        "deberta-v2",
        "eurobert",
        "flaubert",
        "fnet",
        "funnel",
        "layoutlmv3",
        "lilt",
        "longformer",
        "luke",
        "megatron-bert",
        "mobilebert",
        "modernbert-decoder",
        "nystromformer",
        "rembert",
        "roformer",
        "squeezebert",
        "xlm",
        "xmod",
    ),
    "other sequence-to-sequence models": (
        "bigbird_pegasus",
        "led",
        "longt5",
        "mt5",
        "pegasus_x",
        "prophetnet",
        "t5",
        "umt5",
    ),
    "language models": (
        "biogpt",
        "bloom",
        "codegen",
        "cohere",
        "cohere2",
        "exaone4",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "glm4",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "granite",
        "helium",
        "llama",
        "ministral",
        "mistral",
        "mixtral",
        "mpt",
        "olmo",
        "olmo2",
        "olmo3",
        "openai-gpt",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
        "stablelm",
        "starcoder2",
        "trocr",
        "xglm",
    ),
    "other models of images and videos": (
        "beit",
        "convnext",
        "convnextv2",
        "data2vec-vision",
        "donut-swin",
        "mobilevit",
        "pvt",
        "resnet",
        "segformer",
        "swin",
        "swin2sr",
        "swinv2",
        "timesformer",
    ),
    "other models of speech": (
        "hifigan",  # the vocoder of speecht5, as transformers 4 calls it
        "moonshine",
        "sew-d",
        "speecht5",
        "speecht5_hifigan",
        "wav2vec2-bert",
        "wav2vec2-conformer",
        "wavlm",
    ),
    "other models of images with texts": (
        "gemma3",
        "groupvit",
        "groupvit_text_model",
        "groupvit_vision_model",
        "llava",
        "paligemma",
        "qwen2_5_vl",
        "qwen2_5_vl_text",
        "qwen2_5_vl_vision",
        "qwen2_vl",
        "qwen2_vl_text",
        "qwen2_vl_vision",
        "vilt",
        "visual_bert",
    ),
    "pairs of two of these": (
        "encoder-decoder",
        "speech-encoder-decoder",
        "vision-encoder-decoder",
        "vision-text-dual-encoder",
    ),
}

MODEL_TYPES = frozenset(name for group in MODEL_TYPES_BY_GROUP.values() for name in group)
"""``model_type`` of the configurations that may be built."""
