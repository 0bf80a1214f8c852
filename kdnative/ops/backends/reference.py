"""Plain torch on any device: slow, and with int8 activations the same bits as the kernels (`kdnative.ops.reference`).

It computes the linears of devices without kernels, and of the CPU under ``KDNATIVE_BACKEND=reference``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor

from kdnative.formats.scheme import NAMES, Scheme
from kdnative.ops import reference
from kdnative.ops.backends.base import Backend
from kdnative.ops.backends.implementing import DEVICES, implement
from kdnative.ops.schemas import FUSED, LINEARS

__all__ = ["IMPLEMENTATIONS", "MPS", "REFERENCE", "take_over"]

IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "quantize_per_token": reference.quantize_per_token,
    "norm_quantize": reference.norm_quantize,
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


REFERENCE = Backend("reference", NAMES, fused=False, is_fallback=True)


class _NoFloat64(Backend):
    """Devices that can't run the reference, which has the bits of the kernels from sums in float64."""

    def supports(self, scheme: Scheme) -> bool:
        return False

    def refusal(self, scheme: Scheme, shape: tuple[int, int] | None = None) -> str | None:
        return f"there are no kernels for {self.name}, and no float64, with which plain torch computes the same"


MPS = _NoFloat64("mps", [], fused=False)


def take_over(cpu: bool, native: Mapping[str, Collection[str]] = MappingProxyType({})) -> None:
    """Let the reference compute on all types of devices without kernels, and on the CPU if it is chosen there.

    Args:
        native: operators that the native library computes, by types of devices.
    """
    others: dict[str, Callable[..., Any]] = {**IMPLEMENTATIONS, **{name: partial(_not_fused, name) for name in FUSED}}
    for device_type in DEVICES:
        if device_type != "cpu":
            left = {name: run for name, run in others.items() if name not in native.get(device_type, ())}
            implement(device_type, left)
    if cpu:
        implement("cpu", IMPLEMENTATIONS)
