"""The plain form of an encoder: ordinary modules whose state dict is what checkpoints store.

It exists only while an encoder is built, saved or loaded; :class:`kdnative.nn.Encoder` runs from one packed buffer.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from kdnative import ops
from kdnative.nn.embedding import Embedding
from kdnative.nn.linear import Linear

__all__ = ["LINEARS", "EncoderParts", "LayerParts"]

LINEARS = ("qkv", "output", "ffn_in", "ffn_out")
"""The linears of a layer, in the order of execution. ``qkv``: queries, keys and values one after the other."""


class LayerParts(nn.Module):
    """One layer: ``qkv``, ``output``, ``attention_norm``, ``ffn_in``, ``ffn_out``, ``output_norm``."""

    def __init__(self, hidden: int, eps: float, layer: dict[str, Any]) -> None:
        super().__init__()
        width, ffn = layer["heads"] * layer["head_dim"], layer["ffn"]
        self.qkv = Linear(hidden, 3 * width, layer["qkv"])
        self.output = Linear(width, hidden, layer["output"])
        self.attention_norm = nn.LayerNorm(hidden, eps)
        self.ffn_in = Linear(hidden, ffn, layer["ffn_in"])
        self.ffn_out = Linear(ffn, hidden, layer["ffn_out"])
        self.output_norm = nn.LayerNorm(hidden, eps)


class EmbeddingParts(nn.Module):
    """``word``, ``position``, ``token_type`` (only if the model has token types) and ``norm``."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden = config["hidden_size"]
        self.word = Embedding(config["vocab_size"], hidden)
        self.position = Embedding(config["max_positions"], hidden)
        if config["token_types"]:
            self.token_type = Embedding(config["token_types"], hidden)
        self.norm = nn.LayerNorm(hidden, config["eps"])


class EncoderParts(nn.Module):
    """Every weight of an encoder, zero at first.

    Args:
        config: see :class:`kdnative.nn.Encoder`.

    Raises:
        ValueError: a size is not positive, or a scheme or the activation is unknown.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        for name in ("hidden_size", "vocab_size", "max_positions"):
            if config[name] < 1:
                raise ValueError(f"encoder config: {name} must be at least 1, got {config[name]}")
        ops.activation_code(config["activation"])
        self.config = config
        self.embeddings = EmbeddingParts(config)
        self.layers = nn.ModuleList(LayerParts(config["hidden_size"], config["eps"], x) for x in config["layers"])
