"""A small random model of transformers for every class of layers that the table of families knows."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch

from kdnative.models.families import TABLE
from tests.nn.encoder_models import randomized
from tests.nn.layer_configs import LAYERS

transformers = pytest.importorskip("transformers")

DEPTH = {"num_hidden_layers": 3, "encoder_layers": 3, "n_layers": 3}
SOUND = {"max_source_positions": 32, "num_mel_bins": 16}
CHANGES = {  # what else makes a model small, or whole
    "ASTLayer": {"max_length": 64, "num_mel_bins": 16},
    "YolosLayer": {"image_size": [32, 32], "patch_size": 8},
    "VivitLayer": {"image_size": 32, "num_frames": 4},
    "AudioFlamingo3EncoderLayer": SOUND,
    "VoxtralEncoderLayer": SOUND,
    "Qwen2AudioEncoderLayer": SOUND,
    "WhisperEncoderLayer": SOUND,
    "DINOv3ViTLayer": {"num_register_tokens": 2},
    "EsmLayer": {"mask_token_id": 98},
    "ElectraLayer": {"embedding_size": 48},
    "Speech2TextEncoderLayer": {"input_feat_per_channel": 16},
}
_SIZES = {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "vocab_size": 100,
}
WHOLE = {  # layers that only become native with their model
    "MPNetLayer": ("MPNetConfig", {**_SIZES, "max_position_embeddings": 40}),
    "ModernBertEncoderLayer": ("ModernBertConfig", {**_SIZES, "pad_token_id": 0, "local_attention": 6}),
    "NomicBertLayer": ("NomicBertConfig", _SIZES),
    "GteLayer": ("GteConfig", {**_SIZES, "type_vocab_size": 0}),
    "JinaEmbeddingsV3Layer": ("JinaEmbeddingsV3Config", _SIZES),
}
CONFIGS = {**LAYERS, **WHOLE}
NOT_BUILT = {"TimeSeriesTransformerEncoderLayer": "its inputs are series with times and features, no batch of tokens"}

KINDS = [
    name for row in TABLE if row.origin.startswith("transformers.") for name in row.layers if name not in NOT_BUILT
]


def family_model(kind, **changes):
    """The base model around a class of layers, with three of them, in eval mode; skips where there is none."""
    name, settings = CONFIGS[kind]
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    depth = {key: DEPTH[key] for key in settings if key in DEPTH}
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**settings, **depth, **CHANGES.get(kind, {}), **changes})
    module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
    classes = [c for c in vars(module).values() if inspect.isclass(c) and _is_model(c, config)]
    for cls in sorted(classes, key=lambda c: (not c.__name__.endswith(("Model", "Transformer")), len(c.__name__))):
        model = cls(config)
        if any(type(part).__name__ == kind for part in model.modules()):
            return randomized(model)
    raise AssertionError(f"no model of {module.__name__} has a {kind}")


def _is_model(cls, config):
    return (
        issubclass(cls, transformers.PreTrainedModel)
        and cls.config_class is type(config)
        and not cls.__name__.endswith("PreTrainedModel")
    )


def family_inputs(kind, model):
    """What such a model is called with."""
    g = torch.Generator().manual_seed(2)
    if kind == "Siglip2EncoderLayer":
        shapes = torch.tensor([[4, 4], [4, 4]])
        mask = torch.ones(2, 16, dtype=torch.long)
        pixels = torch.randn(2, 16, 3 * model.config.patch_size**2, generator=g)
        return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": shapes}
    shapes = {
        "VideoMAELayer": (1, 4, 3, 32, 32),
        "VivitLayer": (1, 4, 3, 32, 32),
        "ASTLayer": (2, 64, 16),
        "Speech2TextEncoderLayer": (2, 64, 16),
    }
    usual = {"pixel_values": (2, 3, 32, 32), "input_values": (2, 4000), "input_features": (2, 16, 64)}
    name = next(name for name in inspect.signature(model.forward).parameters if name in {*usual, "input_ids"})
    if name == "input_ids":
        ids = torch.randint(3, 99, (2, 11), generator=g)
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    else:
        found = {name: torch.randn(shapes.get(kind, usual[name]), generator=g)}
    if kind == "AudioFlamingo3EncoderLayer":
        found["input_features_mask"] = torch.ones(2, 64, dtype=torch.long)
    if kind == "ViTMAELayer":
        found["noise"] = torch.rand(2, 16, generator=g)  # which patches it sees
    if model.config.is_encoder_decoder:
        found["decoder_input_ids"] = torch.tensor([[1, 5, 7], [1, 7, 9]])
    return found
