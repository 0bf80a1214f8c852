"""Decoded pictures: squares of one size in one array, and a picture as a row of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kdnative.data.types import IMAGE, LABEL, Example

__all__ = ["Picture", "Pictures"]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of one size.

    Attributes:
        pixels: uint8 [N, side, side, channels], channels 1 (grey) or 3 (RGB); perhaps a map of a file.
        digests: SHA-256 (hex) of what each was decoded from.
    """

    pixels: np.ndarray = field(repr=False)
    digests: Sequence[str] = field(repr=False)

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] not in (1, 3):
            raise ValueError(
                f"pixels are {self.pixels.dtype} {list(shape)}: uint8 [N, side, side, channels] with 1 or 3 channels "
                "are needed"
            )
        if len(self.digests) != len(self.pixels):
            raise ValueError(f"{len(self.digests)} digests for {len(self.pixels)} pictures")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def side(self) -> int:
        return self.pixels.shape[1]

    def example(self, row: int, label: int | None, id: str) -> Example:
        """The picture of a row as an example."""
        return Example({IMAGE: Picture(self, row, self.digests[row]), LABEL: label}, id)


@dataclass(frozen=True)
class Picture:
    """One of some `Pictures`. Two are equal where what they were decoded from is."""

    pictures: Pictures = field(repr=False, compare=False)
    row: int = field(compare=False)
    digest: str

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [side, side, 3]."""
        found = self.pictures.pixels[self.row]
        return np.repeat(found, 3, -1) if found.shape[-1] == 1 else np.asarray(found)
