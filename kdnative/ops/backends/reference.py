"""Plain torch on any device: slow, and with int8 activations the same bits as the kernels (`kdnative.ops.reference`).

It computes the linears of devices without kernels, and of the CPU under ``KDNATIVE_BACKEND=reference``. It knows
formats before there are kernels for them: input scales.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdnative.formats.scheme import NAMES
from kdnative.ops import reference
from kdnative.ops.backends.base import Backend
from kdnative.ops.schemas import FUSED, LINEARS

__all__ = ["IMPLEMENTATIONS", "REFERENCE"]

_DEVICES = ("CUDA", "XPU", "MPS", "PrivateUse1")  # torch's dispatch keys of those that have no kernels yet
IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "quantize_per_token": reference.quantize_per_token,
    **{name: partial(reference.linear, name, *widths) for name, widths in LINEARS.items()},
    "linear_sparse": partial(reference.linear, "linear_sparse", None, 8),
}


def _not_fused(name: str, packed: Tensor, *arguments: object) -> Tensor:
    tensors = [each for each in (packed, *arguments) if isinstance(each, Tensor)]
    device = next((each.device for each in tensors if each.device.type != "cpu"), packed.device)
    raise RuntimeError(
        f"kdnative::{name} runs on the CPU, but was given tensors on {device}, for which it has no kernel: move "
        "the model and its inputs to the CPU, or convert it with convert_(..., fuse=False)"
    )


class _Reference(Backend):
    def __init__(self) -> None:
        scaled = [name + "-is" for name in NAMES if "+" not in name]
        super().__init__("reference", [*NAMES, *scaled], fused=False, is_fallback=True)
        self._library = torch.library.Library("kdnative", "IMPL")  # registered while it lives

    def take_over(self, device_type: str | None) -> None:
        """Register the implementations for devices without kernels, and for one with kernels."""
        for key in _DEVICES:
            for name, implementation in IMPLEMENTATIONS.items():
                self._library.impl(name, implementation, key)
            for name in FUSED:
                self._library.impl(name, partial(_not_fused, name), key)
        if device_type is not None:
            with warnings.catch_warnings():  # torch warns of kernels that are replaced
                warnings.simplefilter("ignore", UserWarning)
                for name, implementation in IMPLEMENTATIONS.items():
                    self._library.impl(name, implementation, device_type.upper(), allow_override=True)


REFERENCE = _Reference()
