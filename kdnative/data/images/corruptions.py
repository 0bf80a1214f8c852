"""Pictures as bad as users send them: noisy, blurred, or saved as small JPEG files.

Three strengths of each, after Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions"
(2019), for pictures of 32 to 224 pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdnative.data.batches import Batch
from kdnative.data.images.encoded import ImageDataset
from kdnative.extras import require

__all__ = ["CORRUPTIONS", "CorruptedDataset"]

STRENGTHS = (1, 2, 3)
_NOISE = (0.04, 0.08, 0.16)  # standard deviation, of 255
_BLUR = (0.008, 0.016, 0.03)  # radius, of the side
_JPEG = (40, 15, 7)  # quality


def _noise(pixels: np.ndarray, strength: int, generator: np.random.Generator) -> np.ndarray:
    noise = generator.normal(0.0, 255 * _NOISE[strength - 1], pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def _blur(pixels: np.ndarray, strength: int, generator: np.random.Generator) -> np.ndarray:
    radius = _BLUR[strength - 1] * pixels.shape[0]
    blurred = require("PIL.Image").fromarray(pixels).filter(require("PIL.ImageFilter").GaussianBlur(radius))
    return np.asarray(blurred)


def _jpeg(pixels: np.ndarray, strength: int, generator: np.random.Generator) -> np.ndarray:
    image, file = require("PIL.Image"), io.BytesIO()
    image.fromarray(pixels).save(file, "JPEG", quality=_JPEG[strength - 1])
    return np.asarray(image.open(file))


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "noise": _noise,
    "blur": _blur,
    "jpeg": _jpeg,
}
"""By name: (pixels uint8 [side, side, 3], strength 1 to 3, generator) to pixels."""


class CorruptedDataset(ImageDataset):
    """An `ImageDataset` all of whose pictures are worse; the same ones each time.

    Args:
        data: the pictures. name: of `CORRUPTIONS`. strength: 1 to 3. seed: of noise.
    """

    def __init__(self, data: ImageDataset, name: str, strength: int, seed: int = 0):
        super().__init__(data.source, data.preprocessing)
        self.name, self.strength, self.seed = name, strength, seed

    def batch(self, rows: np.ndarray | Sequence[int], multiple: int = 1) -> Batch:
        return self.made(rows, np.stack([self._worse(int(i)) for i in rows]))

    @property
    def fingerprint(self) -> Any:
        return f"{super().fingerprint} {self.name} {self.strength} {self.seed}"

    def _worse(self, row: int) -> np.ndarray:
        generator = np.random.Generator(np.random.PCG64([self.seed, self.strength, row]))
        return CORRUPTIONS[self.name](self[row], self.strength, generator)
