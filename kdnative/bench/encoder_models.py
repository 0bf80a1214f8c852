"""The encoders that the suites measure: real ones, and random ones of well-known sizes, of transformers or torch."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.extras import require
from kdnative.formats import QuantizedWeight, Scheme

RANDOM = {  # layers, hidden size, heads, FFN width
    "random-minilm": (6, 384, 12, 1536),
    "random-bert-base": (12, 768, 12, 3072),
    "random-tiny": (2, 64, 2, 128),
}
TORCH = {"random-torch": RANDOM["random-minilm"]}  # nn.TransformerEncoder
VISION = {"random-vit": RANDOM["random-bert-base"]}  # the layers of ViT-base
POSITIONS = 512  # of these
NAMES = f"package:NAME, hub:NAME, a Hugging Face folder, or {', '.join((*RANDOM, *TORCH, *VISION))}"


class TorchModel(nn.Module):
    """A model of torch's own parts, ``nn.TransformerEncoder`` behind embeddings, with the call of transformers."""

    def __init__(self, layers: int, hidden: int, heads: int, ffn: int, vocabulary: int = 30522) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            hidden_size=hidden, num_attention_heads=heads, vocab_size=vocabulary, pad_token_id=0
        )
        self.words, self.positions = nn.Embedding(vocabulary, hidden), nn.Embedding(POSITIONS, hidden)
        self.norm = nn.LayerNorm(hidden)
        layer = nn.TransformerEncoderLayer(hidden, heads, ffn, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """int64 ``[B, T]`` twice; ``last_hidden_state`` is ``[B, T, H]``."""
        positions = torch.arange(input_ids.shape[1])
        hidden = self.norm(self.words(input_ids) + self.positions(positions))
        return SimpleNamespace(last_hidden_state=self.encode(hidden, attention_mask))

    def encode(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """What comes behind the embeddings."""
        return self.encoder(hidden, src_key_padding_mask=attention_mask == 0)


class VisionModel(TorchModel):
    """The layers of a vision transformer, of transformers, behind embeddings of tokens: all engines take ids."""

    def __init__(self, layers: int, hidden: int, heads: int, ffn: int) -> None:
        from transformers import ViTConfig, ViTModel

        super().__init__(0, hidden, heads, ffn)
        config = ViTConfig(
            num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=ffn
        )
        self.encoder = ViTModel(config, add_pooling_layer=False).layers

    def encode(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = hidden.shape[1]
        mask = (attention_mask != 0)[:, None, None].expand(-1, 1, tokens, -1)
        layers: Any = self.encoder
        for layer in layers:
            hidden = layer(hidden, mask)
        return hidden


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Without torch's fused kernel for encoder layers, which exporters and quantized linears can't stand."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _with_biases(model: nn.Module) -> nn.Module:
    """Random biases too: they begin as zeros, and nothing would show that an engine leaves them out."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def load_encoder(source: str) -> nn.Module:
    """An encoder without a head, fp32: real weights, or random ones for the names of RANDOM, TORCH and VISION.

    Raises:
        ImportError: transformers is not installed. ValueError: an unknown random model.
    """
    if source in TORCH:
        torch.manual_seed(0)
        return _with_biases(TorchModel(*TORCH[source]))
    transformers = require("transformers", "this benchmark")
    if source in VISION:
        torch.manual_seed(0)
        return _with_biases(VisionModel(*VISION[source]))
    if source in RANDOM:
        layers, hidden, heads, ffn = RANDOM[source]
        config = transformers.BertConfig(
            num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=ffn
        )
        torch.manual_seed(0)
        return _with_biases(transformers.BertModel(config, add_pooling_layer=False))
    if source.startswith("random"):
        raise ValueError(f"no random model {source!r}; there are {', '.join((*RANDOM, *TORCH, *VISION))}")
    from kdnative.data import model_path

    return transformers.AutoModel.from_pretrained(model_path(source), dtype=torch.float32).eval()


def load_encoders(sources: Sequence[str]) -> dict[str, nn.Module]:
    """:func:`load_encoder` of each, by the name that tables show: the last part of the source."""
    short = {source: source.rstrip("/").rpartition("/")[2].rpartition(":")[2] for source in sources}
    unique = len(set(short.values())) == len(set(sources))
    return {short[source] if unique else source: load_encoder(source) for source in sources}


def converted(model: nn.Module, scheme: str) -> nn.Module:
    """A copy of the model whose encoder is one native operator.

    A scheme such as ``w8a8-is`` is for timings: its input scales are 1, as others cost the same.

    Raises:
        ValueError: the scheme is unknown, or the library can't fuse this encoder: the suites measure the fused one.
    """
    from kdnative import convert_
    from kdnative.nn import PackedEncoder

    asked = Scheme.parse(scheme)
    how: dict[str, Any] = {"method": "rtn"} if not asked.input_scales else {"weights": _with_input_scales(model, asked)}
    found = convert_(copy.deepcopy(model), asked.plain if asked.input_scales else asked, **how).model
    if not any(isinstance(module, PackedEncoder) for module in found.modules()):
        raise ValueError(f"{type(model).__name__} is not an encoder that kdnative fuses: the suite measures those only")
    return found


def _with_input_scales(model: nn.Module, scheme: Scheme) -> dict[str, QuantizedWeight]:
    from kdnative.quantize import quantize_weight

    weights = {}
    for name, linear in model.named_modules():
        if isinstance(linear, nn.Linear):
            ones = torch.ones(linear.in_features)
            weights[name] = quantize_weight(linear.weight.detach(), scheme).changed(input_scale=ones)
    return weights
