"""Shapes and dtypes of the operators for ``torch.compile`` and ``torch.export``; no data is touched."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.register_fake("kdnative::quantize_per_token")
def _quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty(x.shape, dtype=torch.int8, device=x.device), x.new_empty(x.shape[:-1], dtype=torch.float32)


def _same_device(packed: Tensor, x: Tensor) -> None:
    """Torch takes the shape functions for operands on different devices too, if one is a meta tensor."""
    if packed.device != x.device:
        raise RuntimeError(
            f"the packed weights are on {packed.device} and the input is on {x.device}. Weights on meta are those of "
            "an empty module, which has shapes alone: load a state dict into it first"
        )


def _linear(x: Tensor, packed: Tensor, out_features: int, activation: int) -> Tensor:
    _same_device(packed, x)
    return torch.empty((*x.shape[:-1], out_features), dtype=x.dtype, device=x.device)


for _bits in (8, 4, 2):
    for _activation_bits in (8, 16):
        torch.library.register_fake(f"kdnative::linear_w{_bits}a{_activation_bits}", _linear)
torch.library.register_fake("kdnative::linear_sparse", _linear)


@torch.library.register_fake("kdnative::encoder")
def _encoder(
    packed: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    hidden_size: int,
) -> Tensor:
    _same_device(packed, input_ids)
    return input_ids.new_empty((*input_ids.shape, hidden_size), dtype=torch.float32)


@torch.library.register_fake("kdnative::encoder_hidden_states")
def _encoder_hidden_states(
    packed: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    hidden_size: int,
    layers: int,
) -> Tensor:
    _same_device(packed, input_ids)
    return input_ids.new_empty((layers + 1, *input_ids.shape, hidden_size), dtype=torch.float32)


@torch.library.register_fake("kdnative::encoder_layers")
def _encoder_layers(
    packed: Tensor,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    causal: int,
    rotary: Tensor | None = None,
    padding_mask: Tensor | None = None,
) -> Tensor:
    _same_device(packed, hidden_states)
    return hidden_states.new_empty(hidden_states.shape, dtype=torch.float32)
