"""IDX files, in which MNIST and data sets like it come: an array behind a short header, often packed by gzip.

The format: two zero bytes, the type of the numbers, how many dimensions, then each as a 32-bit integer, big-endian
(LeCun, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

from kdnative.data.images.pictures import Pictures
from kdnative.data.types import DataError

__all__ = ["FILES", "is_idx_folder", "read_idx", "read_pictures", "to_square"]

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_BYTES = 0x08  # the type of the numbers: unsigned bytes


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds a training split in IDX files."""
    return all(_find(folder, name) is not None for name in FILES["train"])


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file of bytes, uint8.

    Raises:
        DataError: it is not one, or is shorter or longer than its header says.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: can't be read: {error}") from error
    if len(data) < 4 or data[:3] != bytes((0, 0, _BYTES)) or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path}: not an IDX file of bytes")
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    start = 4 + 4 * len(shape)
    if len(data) - start != math.prod(shape):
        raise DataError(f"{path}: its header says {shape}, but {len(data) - start:,} bytes follow")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_pictures(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Pixels uint8 [N, height, width] and labels uint8 [N] of "train" or "test"; None where there are no such files.

    Raises:
        DataError: files that can't be read, or do not belong together.
    """
    places = [_find(folder, name) for name in FILES[split]]
    if None in places:
        return None
    pixels, labels = (read_idx(place) for place in places if place is not None)
    if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels):
        raise DataError(
            f"{folder}, {split}: pictures {list(pixels.shape)} and labels {list(labels.shape)}: [N, height, width] and "
            "[N] are needed"
        )
    return pixels, labels


def to_square(pixels: np.ndarray, side: int) -> Pictures:
    """Grey pictures with a black border where the side is larger, else resized.

    Args:
        pixels: uint8 [N, height, width].
    """
    import torch

    height, width = pixels.shape[1:]
    digests = [hashlib.sha256(one.tobytes()).hexdigest() for one in pixels]
    if max(height, width) <= side:
        top, left = (side - height) // 2, (side - width) // 2
        around = ((0, 0), (top, side - height - top), (left, side - width - left))
        return Pictures(np.pad(pixels, around)[..., None], digests)
    made = torch.nn.functional.interpolate(
        torch.from_numpy(pixels.copy())[:, None], (side, side), mode="bilinear", antialias=True
    )
    return Pictures(made.permute(0, 2, 3, 1).numpy(), digests)


def _find(folder: Path, name: str) -> Path | None:
    return next((place for place in (folder / name, folder / f"{name}.gz") if place.is_file()), None)
