"""`kdnative convert --calibrate FOLDER`: pictures of a folder as batches of a model's inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdnative.data import DataError
from kdnative.data.images.decoding import SUFFIXES
from kdnative.nn import ImageInput

__all__ = ["batches_of_pictures", "two_parts_of_pictures"]

_BATCH = 32


def two_parts_of_pictures(folder: str | Path, count: int) -> tuple[list[Path], list[Path]]:
    """So many pictures to calibrate on, and at most as many others to measure on; chosen by a hash of their paths.

    Args:
        folder: pictures may lie deeper in it. None is opened here.

    Raises:
        DataError: there are no pictures in it.
    """
    root = Path(folder)
    files = [file for file in sorted(root.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not files:
        raise DataError(f"{folder}: no pictures ({', '.join(SUFFIXES)})")
    files.sort(key=lambda file: hashlib.sha256(file.relative_to(root).as_posix().encode()).digest())
    return files[:count], files[count : 2 * count]


def batches_of_pictures(files: Sequence[Path], model: nn.Module, _: Any = None) -> list[Tensor]:
    """Pictures as a model reads them, fp32 [N, C, H, W] each.

    Raises:
        DataError: the model does not say how it reads pictures. ValueError: one can't be read.
    """
    preprocess = getattr(model, "preprocess", None)
    if not isinstance(preprocess, ImageInput):
        raise DataError(
            "the model has no image preprocessing: set model.preprocess = kdnative.nn.ImageInput(...) before "
            "kdnative.save, or calibrate in Python"
        )
    return [preprocess(list(files[start : start + _BATCH])) for start in range(0, len(files), _BATCH)]
