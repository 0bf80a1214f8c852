"""Modules that run on the integer kernels and replace those of torch.nn and of encoder models."""

from kdnative.nn.embedding import Embedding
from kdnative.nn.encoder import Encoder
from kdnative.nn.linear import Linear
from kdnative.nn.packed_encoder import PackedEncoder
from kdnative.nn.transformer import TransformerEncoder

__all__ = ["Embedding", "Encoder", "Linear", "PackedEncoder", "TransformerEncoder"]
