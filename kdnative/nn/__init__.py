"""Modules that run on the integer kernels and replace those of torch.nn and of encoder models."""

from kdnative.nn.attention import MultiheadAttention
from kdnative.nn.convnet import ConvNet
from kdnative.nn.embedding import Embedding
from kdnative.nn.encoder import Encoder
from kdnative.nn.encoder_layer import EncoderLayer
from kdnative.nn.image_input import ImageInput
from kdnative.nn.linear import Linear
from kdnative.nn.packed_encoder import PackedEncoder
from kdnative.nn.transformer import TransformerEncoder

__all__ = [
    "ConvNet",
    "Embedding",
    "Encoder",
    "EncoderLayer",
    "ImageInput",
    "Linear",
    "MultiheadAttention",
    "PackedEncoder",
    "TransformerEncoder",
]
