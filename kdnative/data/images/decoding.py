"""From files to pixels: decoded once, as squares of one size, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kdnative.data.images.pictures import Pictures
from kdnative.data.packages import cached
from kdnative.data.types import DataError
from kdnative.extras import require
from kdnative.files import sha256_of
from kdnative.nn.image_input import FITS, ImageInput

__all__ = ["SUFFIXES", "decode", "decode_file", "decode_files"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMAT = 1  # of what is in the cache
_NAMED = 5  # broken files that an error lists
_THREADS = 8  # at most: decoding lets go of the interpreter


def decode_files(
    folder: Path, files: Sequence[str], side: int, fit: str = "crop", broken: str = "error"
) -> tuple[Pictures, list[str]]:
    """Pictures of files, from the cache where the same files were decoded before, and what is wrong with some.

    They are the same where names, sizes and times of change are.

    Args:
        folder: of the files. files: their paths in it, with "/".
        side: of the squares, pixels.
        fit: "crop" (the middle, as wide as the shorter side), "pad" (all of it, on white) or "stretch".
        broken: "error", or "drop": files that can't be read have an empty digest.

    Returns:
        The pictures, and a sentence for each broken file.

    Raises:
        DataError: files that are no pictures, or broken or huge ones; the text names them.
        ImportError: Pillow is not installed.
    """
    require("PIL.Image", "reading pictures")
    if side < 1 or fit not in FITS or broken not in ("error", "drop"):
        raise ValueError(
            f"side={side}, fit={fit!r}, broken={broken!r}: at least 1 pixel, one of {', '.join(FITS)}, error or drop"
        )
    stamps = [os.stat(folder / name) for name in files]
    told = [(name, s.st_size, s.st_mtime_ns) for name, s in zip(files, stamps, strict=True)]
    key = hashlib.sha256(json.dumps([_FORMAT, str(folder.resolve()), side, fit, told]).encode()).hexdigest()[:32]

    def build(target: Path, scratch: Path) -> None:
        target.mkdir()
        pixels = np.lib.format.open_memmap(target / "pixels.npy", "w+", np.uint8, (len(files), side, side, 3))
        digests, problems = _decode_all(folder, files, side, fit, pixels)
        pixels.flush()
        (target / "digests.json").write_text(json.dumps([digests, problems]))
        if problems and broken == "error":
            raise _unreadable(folder, len(files), problems)

    found = cached(f"images/{key}", build)
    digests, problems = json.loads((found / "digests.json").read_text())
    if problems and broken == "error":  # they were dropped when this was decoded
        raise _unreadable(folder, len(files), problems)
    return Pictures(np.load(found / "pixels.npy", mmap_mode="r"), digests), problems


def _unreadable(folder: Path, files: int, problems: Sequence[str]) -> DataError:
    listed = "\n  ".join([*problems[:_NAMED], *(["..."] if len(problems) > _NAMED else [])])
    return DataError(
        f"{folder}: {len(problems)} of {files} pictures can't be read; repair them, remove them, or skip them "
        f"with broken: drop:\n  {listed}"
    )


def _decode_all(
    folder: Path, files: Sequence[str], side: int, fit: str, pixels: np.ndarray
) -> tuple[list[str], list[str]]:
    """Fills the pixels, and returns the digests and what is wrong with files, sorted."""
    broken: list[str] = []

    def one(row: int) -> str:
        try:
            pixels[row], digest = decode_file(folder / files[row], side, fit)
            return digest
        except DataError as error:
            broken.append(str(error))
            return ""

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(one, range(len(files))))
    return digests, sorted(broken)


def decode_file(path: Path, side: int, fit: str = "crop") -> tuple[np.ndarray, str]:
    """A picture as uint8 [side, side, 3], as a loaded model reads it, and the SHA-256 (hex) of its file.

    Raises:
        DataError: it can't be read as a picture.
    """
    try:
        return decode(path, side, fit), sha256_of(path)
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error


def decode(picture: Any, side: int, fit: str = "crop") -> np.ndarray:
    """A picture of Pillow, or the path of a file, as uint8 [side, side, 3]; errors are those of `ImageInput`."""
    return ImageInput((side, side), fit=fit).pixels(picture)
