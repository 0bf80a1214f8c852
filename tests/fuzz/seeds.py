"""One small checkpoint of each kind of model, to be changed by the fuzzers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import kdnative
from kdnative import nn as native
from kdnative.prune import mask_
from tests.convnets import small as convnet
from tests.convnets import small_floats
from tests.fuzz.checkpoint_files import Checkpoint
from tests.input_scales import scaled_weights
from tests.nn.encoder_models import small
from tests.small_models import bert

__all__ = ["KINDS", "Kind", "Seed", "make_seeds"]

_TINY = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 40}
_TINY_BERT = {**_TINY, "max_position_embeddings": 16}


class Own(nn.Module):
    """A class that no file can name: its checkpoints go into a model of the caller."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


def _mlp() -> nn.Module:
    inner = nn.Sequential(nn.Linear(64, 32, bias=False), nn.Dropout(0.3))
    return nn.Sequential(nn.Embedding(20, 32, 0), nn.Linear(32, 64), nn.GELU("tanh"), nn.LayerNorm(64), inner)


def _linears() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.ModuleDict({"a": nn.Linear(64, 8)})["a"])


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def _hugging_face(name: str, **settings: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, name.removesuffix("ForCausalLM").removesuffix("Model") + "Config")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return getattr(transformers, name)(config(**{**sizes, **settings}))


def _convnet() -> nn.Module:
    model = convnet()
    model.preprocess = native.ImageInput((9, 8), classes=("a", "b", "c"))
    return model


def _ids() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(3, 17).view(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        build: the float model.
        call: one forward.
        scheme, options: of `kdnative.convert_`; ``zeros`` is a pattern of `kdnative.prune.mask_`, and then every linear
            is converted, whether that pays or not. ``scaled``: weights have input scales.
        native: makes the converted model in another way.
    """

    build: Callable[[], nn.Module]
    call: Callable[[nn.Module], Any]
    scheme: str = "w8a8"
    options: dict[str, Any] = field(default_factory=dict)
    zeros: str | None = None
    scaled: bool = False
    native: Callable[[], nn.Module] | None = None

    def convert(self, model: nn.Module) -> nn.Module:
        if self.native is not None:
            return self.native()
        if self.zeros is None:
            weights = scaled_weights(model, self.scheme) if self.scaled else None
            method = None if self.scheme.startswith("w8") else "rtn"
            return kdnative.convert_(model, self.scheme, method=method, **self.options, weights=weights).model
        mask_(model, **({} if self.zeros == "2:4" else {"sparsity": 0.6}), pattern=self.zeros)
        for name, layer in list(model.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(model, name, native.Linear.from_float(layer, self.scheme))
        return model


def _of_rows(*shape: int) -> Callable[[nn.Module], Any]:
    return lambda model: model(torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape))


def _of_tokens(model: nn.Module) -> Any:
    return model(**_ids())


_tokens = partial(Kind, call=_of_tokens)
_rows = partial(Kind, _linears, _of_rows(3, 64))
_words = partial(Kind, call=lambda model: model(_ids()["input_ids"]))

KINDS = {
    "w8a8": _words(_mlp),
    "w4a8": _words(_mlp, scheme="w4a8-g32"),
    "w2a8": _words(_mlp, scheme="w2a8-g32"),
    "w4a8-asym": _rows(scheme="w4a8-g32-asym"),
    "w2a8-asym": _rows(scheme="w2a8-g32-asym"),
    "w4a8-int": _rows(scheme="w4a8-g32-int"),
    "w8a16": _rows(scheme="w8a16"),
    "w4a16": _rows(scheme="w4a16-g32"),
    "w2a16": _rows(scheme="w2a16-g32"),
    "w8a8-is": _rows(scaled=True),
    "4x1": _rows(scheme="w8a8+4x1", zeros="4x1"),
    "2:4": _rows(scheme="w8a8+2:4", zeros="2:4"),
    "mask": _rows(scheme="w8a8+mask", zeros="unstructured"),
    "embedding": _words(lambda: nn.Sequential(nn.Embedding(30, 16)), options={"embeddings": 8}),
    "bert": _tokens(partial(bert, kind="BertModel", **_TINY_BERT)),
    "bert-w4a8": _tokens(partial(bert, kind="BertModel", **_TINY_BERT), scheme="w4a8-g32"),
    "bert-is": _tokens(partial(bert, kind="BertModel", **_TINY_BERT), scaled=True),
    "bert-head": _tokens(partial(bert, **_TINY_BERT)),
    "bert-not-fused": _tokens(partial(bert, **_TINY_BERT), options={"fuse": False}),
    "bert-tied": _tokens(partial(bert, kind="BertForMaskedLM", **_TINY_BERT), options={"embeddings": None}),
    "modernbert": _tokens(partial(small, "ModernBert", **_TINY, max_position_embeddings=32, pad_token_id=0)),
    "mpnet": _tokens(partial(small, "MPNet", **_TINY, max_position_embeddings=20)),
    "vit": Kind(partial(_hugging_face, "ViTModel", image_size=32, patch_size=16), _of_rows(1, 3, 32, 32)),
    "transformer-encoder": Kind(_encoder, _of_rows(2, 5, 32)),
    "attention": Kind(
        lambda: nn.MultiheadAttention(64, 2, batch_first=True), lambda model: model(*[torch.ones(2, 5, 64)] * 3)
    ),
    "llama": _tokens(
        partial(_hugging_face, "LlamaForCausalLM", vocab_size=40, num_key_value_heads=2, max_position_embeddings=32)
    ),
    "convnet": Kind(small_floats, _of_rows(2, 3, 9, 8), native=_convnet),
    "into": Kind(Own, _of_rows(3, 64)),
}


@dataclass(frozen=True)
class Seed:
    """A kind, a checkpoint of it, and a float model that it can be loaded into."""

    kind: Kind
    checkpoint: Checkpoint
    model: nn.Module

    def fresh(self) -> nn.Module:
        return copy.deepcopy(self.model)


def make_seeds(folder: Path) -> dict[str, Seed]:
    """A seed for every kind; each has been loaded and run once, so what is imported late has been imported."""
    seeds = {}
    for name, kind in KINDS.items():
        torch.manual_seed(0)
        model = kind.build().eval()
        fresh, place = copy.deepcopy(model), folder / name
        kdnative.save(kind.convert(model), place)
        seeds[name] = Seed(kind, Checkpoint.read(place), fresh)
        if seeds[name].checkpoint.manifest["rebuild"] != "into":
            _run(kind, kdnative.load(place))
        _run(kind, kdnative.load(place, into=seeds[name].fresh()))
    return seeds


@torch.no_grad()
def _run(kind: Kind, model: nn.Module) -> None:
    kind.call(model)
