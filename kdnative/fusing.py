"""Which modules can become one native operator, and by which function."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from kdnative.nn import PackedEncoder, hf, known_layers, torch_encoder
from kdnative.nn.layer_conversion import Quantize

__all__ = ["Rebuilder", "rebuilder"]

Rebuilder = Callable[[nn.Module, Quantize], PackedEncoder | str]
"""Makes the native form of a module, or says in words why there can be none."""


def rebuilder(module: nn.Module) -> Rebuilder | None:
    """What makes the native form of an encoder or a layer, known or refused in words; None for other modules."""
    if hf.is_encoder(module):
        return hf.encoder_from_hf
    if known_layers.is_layer(module):
        return known_layers.layer_from
    return torch_encoder.encoder_from_torch if torch_encoder.is_encoder(module) else None
