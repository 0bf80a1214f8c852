"""From recorded steps to nodes: which function becomes which node. Readers are registered by the function's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from kdnative.cnn.building import Builder
from kdnative.cnn.recording import Step

__all__ = ["READERS", "pair", "reads"]

Reader = Callable[[Builder, Step], None]

READERS: dict[str, Reader] = {}
"""What each function of torch becomes."""


def reads(*functions: str) -> Callable[[Reader], Reader]:
    """Register what these functions become."""

    def register(reader: Reader) -> Reader:
        for function in functions:
            assert function not in READERS, function
            READERS[function] = reader
        return reader

    return register


def pair(value: Any) -> tuple[int, int]:
    """An argument that is one number for height and width, or two."""
    first, second = (value, value) if isinstance(value, int) else value if len(value) == 2 else (value[0], value[0])
    return int(first), int(second)


def constant(step: Step, value: Any, what: str) -> Tensor | None:
    """A tensor that doesn't depend on the image, or None."""
    if value is None or isinstance(value, Tensor):
        return value
    raise step.refuse(f"{what} of {step.function} is computed from the image")
