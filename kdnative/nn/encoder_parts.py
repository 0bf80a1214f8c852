"""The plain form of an encoder: ordinary modules whose state dict is what checkpoints store.

It exists only while an encoder is built, saved or loaded; :class:`kdnative.nn.Encoder` runs from one packed buffer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kdnative.nn.embedding import Embedding
from kdnative.nn.encoder_spec import complete
from kdnative.nn.linear import Linear

__all__ = ["EncoderParts", "LayerParts"]


class LayerParts(nn.Module):
    """One layer: ``qkv``, ``output``, ``ffn_in``, ``ffn_out`` and two LayerNorms.

    With norm "post" these are ``attention_norm`` and ``output_norm``, after the sums; with "pre" ``attention_norm``
    (unless the layer has none) and ``ffn_norm``, of what each part reads.
    """

    def __init__(self, spec: dict[str, Any], layer: dict[str, Any], device: str = "cpu") -> None:
        super().__init__()
        hidden, eps, width, ffn = spec["hidden_size"], spec["eps"], layer["heads"] * layer["head_dim"], layer["ffn"]
        self.qkv = Linear(hidden, 3 * width, layer["qkv"])
        self.output = Linear(width, hidden, layer["output"])
        if layer["attention_norm"]:
            self.attention_norm = _norm(hidden, eps, device)
        self.ffn_in = Linear(hidden, 2 * ffn if spec["gated"] else ffn, layer["ffn_in"])
        self.ffn_out = Linear(ffn, hidden, layer["ffn_out"])
        setattr(self, "output_norm" if spec["norm"] == "post" else "ffn_norm", _norm(hidden, eps, device))


class EmbeddingParts(nn.Module):
    """``word``, ``position`` and ``token_type`` (only if the model has such tables) and ``norm``."""

    def __init__(self, spec: dict[str, Any], device: str = "cpu") -> None:
        super().__init__()
        hidden = spec["hidden_size"]
        self.word = Embedding(spec["vocab_size"], hidden)
        if spec["position_table"]:
            self.position = Embedding(spec["max_positions"], hidden)
        if spec["token_types"]:
            self.token_type = Embedding(spec["token_types"], hidden)
        self.norm = _norm(hidden, spec["eps"], device)


class EncoderParts(nn.Module):
    """Every weight of an encoder; linears and tables are empty at first.

    Args:
        spec: see :class:`kdnative.nn.Encoder`; ``self.spec`` is its complete form.
        device: of LayerNorms and biases by distance, which torch holds; "meta" gives shapes without values.

    Raises:
        ValueError: a size is not positive, or a scheme or another setting is unknown.
    """

    def __init__(self, spec: dict[str, Any], device: str = "cpu") -> None:
        super().__init__()
        self.spec = spec = complete(spec)
        if spec["embeddings"]:
            self.embeddings = EmbeddingParts(spec, device)
        if spec["relative_buckets"]:
            sizes = spec["relative_buckets"], spec["layers"][0]["heads"]
            self.relative_bias = nn.Embedding(*sizes, dtype=torch.float32, device=device)
        self.layers = nn.ModuleList(LayerParts(spec, layer, device) for layer in spec["layers"])
        if spec["norm"] == "pre" and spec["embeddings"]:
            self.final_norm = _norm(spec["hidden_size"], spec["eps"], device)


def _norm(hidden: int, eps: float, device: str) -> nn.LayerNorm:
    """Float32, as the packed buffer has it, whatever torch's default dtype and device are."""
    return nn.LayerNorm(hidden, eps, dtype=torch.float32, device=device)
