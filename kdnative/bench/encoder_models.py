"""The encoders that the suites measure: real ones, and random ones of well-known sizes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from .peers import HOW_TO_GET

RANDOM = {  # layers, hidden size, heads, FFN width
    "random-minilm": (6, 384, 12, 1536),
    "random-bert-base": (12, 768, 12, 3072),
    "random-tiny": (2, 64, 2, 128),
}
NAMES = f"package:NAME, hub:NAME, a Hugging Face folder, or {', '.join(RANDOM)}"


def load_encoder(source: str) -> nn.Module:
    """A Hugging Face encoder without a head, fp32: real weights, or random ones for the names of ``RANDOM``.

    Raises:
        ImportError: transformers is not installed. ValueError: an unknown random model.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ImportError(f"this benchmark needs transformers: {HOW_TO_GET}") from error
    if source in RANDOM:
        layers, hidden, heads, ffn = RANDOM[source]
        config = transformers.BertConfig(
            num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=ffn
        )
        torch.manual_seed(0)
        return transformers.BertModel(config, add_pooling_layer=False).eval()
    if source.startswith("random"):
        raise ValueError(f"no random model {source!r}; there are {', '.join(RANDOM)}")
    from kdnative.data import model_path

    return transformers.AutoModel.from_pretrained(model_path(source), dtype=torch.float32).eval()


def load_encoders(sources: Sequence[str]) -> dict[str, nn.Module]:
    """:func:`load_encoder` of each, by the name that tables show: the last part of the source."""
    short = {source: source.rstrip("/").rpartition("/")[2].rpartition(":")[2] for source in sources}
    unique = len(set(short.values())) == len(set(sources))
    return {short[source] if unique else source: load_encoder(source) for source in sources}


def converted(model: nn.Module, scheme: str) -> nn.Module:
    """A copy of the encoder as one native operator.

    Raises:
        ValueError: the scheme is unknown, or the library can't fuse this encoder: the suites measure the fused one.
    """
    from kdnative import convert_
    from kdnative.nn import Encoder

    found = convert_(copy.deepcopy(model), scheme).model
    if not isinstance(found, Encoder):
        raise ValueError(f"{type(model).__name__} is not an encoder that kdnative fuses: the suite measures those only")
    return found
