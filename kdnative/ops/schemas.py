"""The operators: their names, and shapes and dtypes for ``torch.compile`` and ``torch.export``, once for all backends.

Their schemas are defined where the native library registers its kernels (``csrc/ops``). A backend gives them
implementations for its devices (:mod:`kdnative.ops.backends`); nothing here touches data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["FUSED", "LINEARS", "OPERATORS"]


def _quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty(x.shape, dtype=torch.int8, device=x.device), x.new_empty(x.shape[:-1], dtype=torch.float32)


def _norm_quantize(
    x: Tensor, gamma: Tensor, beta: Tensor | None, eps: float, input_scale: Tensor | None = None, rms: int = 0
) -> tuple[Tensor, Tensor]:
    return _quantize_per_token(x)


def _same_device(packed: Tensor, x: Tensor) -> None:
    """Torch takes the shape functions for operands on different devices too, if one is a meta tensor."""
    if packed.device != x.device:
        raise RuntimeError(
            f"the packed weights are on {packed.device} and the input is on {x.device}. Weights on meta are those of "
            "an empty module, which has shapes alone: load a state dict into it first"
        )


def _linear(x: Tensor, packed: Tensor, out_features: int, activation: int, form: int = 0) -> Tensor:
    _same_device(packed, x)
    return torch.empty((*x.shape[:-1], out_features), dtype=x.dtype, device=x.device)


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
    if not 0 <= layers < 2**31:  # the kernel compares it with the encoder's; here there is only the number
        raise ValueError(f"encoder_hidden_states: layers is {layers}; an encoder has 0 to {2**31 - 1} layers")
    return input_ids.new_empty((layers + 1, *input_ids.shape, hidden_size), dtype=torch.float32)


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


def _convnet(packed: Tensor, x: Tensor, features: int) -> Tensor:
    _same_device(packed, x)
    return x.new_empty((x.shape[0], features), dtype=torch.float32)


LINEARS = {
    f"linear_w{bits}a{activation_bits}": (bits, activation_bits) for activation_bits in (8, 16) for bits in (8, 4, 2)
}
"""The operator of each width of the weights and of the activations; 16 stands for any float."""

FUSED: dict[str, Callable[..., Tensor]] = {
    "encoder": _encoder,
    "encoder_hidden_states": _encoder_hidden_states,
    "encoder_layers": _encoder_layers,
    "convnet": _convnet,
}

_FAKES: dict[str, Callable[..., object]] = {
    "quantize_per_token": _quantize_per_token,
    "norm_quantize": _norm_quantize,
    **dict.fromkeys(LINEARS, _linear),
    "linear_sparse": _linear,
    **FUSED,
}

OPERATORS = tuple(_FAKES)
"""The names of all operators, ``torch.ops.kdnative.*``."""

for _name, _fake in _FAKES.items():
    torch.library.register_fake(f"kdnative::{_name}", _fake)
