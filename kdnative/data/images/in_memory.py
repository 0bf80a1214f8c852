"""Pictures in memory: lists, and data sets of torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdnative.data.images.decoding import decode
from kdnative.data.images.pictures import Pictures
from kdnative.data.types import DataError, Dataset
from kdnative.extras import require

__all__ = ["from_pictures"]


def from_pictures(
    examples: Sequence[tuple[Any, int]], classes: Sequence[str], *, side: int, fit: str = "crop", name: str = "data"
) -> Dataset:
    """Pictures in memory, such as a data set of torch or torchvision: ``dataset[i] -> (picture, class)``.

    Args:
        examples: pairs of a picture (of Pillow, or uint8 [H, W, 3] or [H, W]) and the number of its class.
        classes: names of the classes. side, fit: as for `load_images`.

    Raises:
        DataError: something else than a picture, or a class without a name.
    """
    image = require("PIL.Image")
    pixels, digests, labels = [], [], []
    for i, (given, label) in ((i, examples[i]) for i in range(len(examples))):
        picture = given if isinstance(given, image.Image) else image.fromarray(_array(given, f"{name}: example {i}"))
        pixels.append(decode(picture, side, fit))
        digests.append(hashlib.sha256(pixels[-1].tobytes()).hexdigest())
        labels.append(int(label))
    pictures = Pictures(np.stack(pixels) if pixels else np.zeros((0, side, side, 3), np.uint8), digests)
    return Dataset([pictures.example(i, y, f"{name}:{i}") for i, y in enumerate(labels)], classes, name)


def _array(given: Any, what: str) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]: Pillow would take numbers of other kinds for brightness without saying a word."""
    try:
        found = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # whatever an object makes of being asked
        found = np.zeros(0, object)
    if found.dtype == np.uint8 and found.size and (found.ndim == 2 or (found.ndim == 3 and found.shape[2] == 3)):
        return found
    kind = f"{found.dtype} {list(found.shape)}" if found.ndim else f"a {type(given).__name__}"
    raise DataError(f"{what} is {kind}, not a Pillow image or a uint8 array [H, W, 3] or [H, W] of at least one pixel")
