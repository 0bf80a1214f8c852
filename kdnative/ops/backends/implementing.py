"""Who computes the operators on a type of device: functions that torch's dispatcher calls."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["DEVICES", "implement"]

DEVICES = {"cpu": "CPU", "cuda": "CUDA", "xpu": "XPU", "privateuseone": "PrivateUse1"}
"""Types of devices that operators can be implemented for, and torch's dispatch keys."""

_library = torch.library.Library("kdnative", "IMPL")  # what it registers lasts as long as it does


def implement(device_type: str, implementations: Mapping[str, Callable[..., Any]]) -> None:
    """Let operators run these functions on a type of device, in place of what they ran there before.

    The reference has all devices when this package is imported, so a backend of a device replaces it there.

    Args:
        device_type: one of :data:`DEVICES`.
        implementations: by the names of operators, see :data:`kdnative.ops.schemas.OPERATORS`. Others stay.

    Raises:
        ValueError: torch has no such devices, or there is nothing to register for them.
    """
    if device_type not in DEVICES:
        raise ValueError(f"operators can't be implemented for {device_type!r}: allowed are {', '.join(DEVICES)}")
    with warnings.catch_warnings():  # torch warns of functions that are replaced
        warnings.simplefilter("ignore", UserWarning)
        for name, function in implementations.items():
            _library.impl(name, function, DEVICES[device_type], allow_override=True)
