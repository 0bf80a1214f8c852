"""The calibration pass: integer weights that are chosen for the inputs that layers really get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdnative.formats.scheme import Scheme
from kdnative.quantize.calibration import Calibration
from kdnative.quantize.methods.base import Method

__all__ = ["calibrate_"]


def calibrate_(
    model: nn.Module,
    schemes: str | Scheme | Mapping[str, str | Scheme | None] = "w8a8",
    calibration: Iterable[Any] | None = None,
    *,
    method: str | Method | None = None,
    keep: Iterable[str] = (),
    tokenizer: Any = None,
    max_length: int = 128,
    batch_size: int = 32,
    sequential: bool = False,
    state_path: str | Path | None = None,
    progress: bool | Callable[[str, int, int], None] = False,
) -> Calibration:
    """The signature; the body follows."""
    raise NotImplementedError
