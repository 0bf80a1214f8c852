"""What augmentation does to one picture: crops, flips, RandAugment's operations, erased rectangles.

Everything that is drawn comes from a generator that the caller seeds. Pixels are uint8 [side, side, 3].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kdnative.extras import require

__all__ = ["OPERATIONS", "crop", "erase", "rand_augment"]

_RATIO = (3 / 4, 4 / 3)  # of height and width of crops
_GREY = (128, 128, 128)  # what comes in from outside of a picture
_LEVELS = 10


def crop(pixels: np.ndarray, smallest: float, generator: np.random.Generator) -> np.ndarray:
    """A part of the picture at its full size: at least this share of the area (Szegedy et al. 2015)."""
    image = require("PIL.Image")
    side = pixels.shape[0]
    for _ in range(10):
        area = side * side * generator.uniform(smallest, 1.0)
        ratio = math.exp(generator.uniform(*map(math.log, _RATIO)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= side and 0 < height <= side:
            left, top = int(generator.integers(side - width + 1)), int(generator.integers(side - height + 1))
            box = (left, top, left + width, top + height)
            resized = image.fromarray(pixels).resize((side, side), image.Resampling.BILINEAR, box=box)
            return np.asarray(resized)
    return pixels


def erase(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A rectangle of 2 to 33 % of the picture becomes noise (Zhong et al. 2020)."""
    side = pixels.shape[0]
    area, ratio = generator.uniform(0.02, 0.33) * side * side, math.exp(generator.uniform(math.log(0.3), math.log(3.3)))
    height, width = (min(side, max(1, round(math.sqrt(v)))) for v in (area * ratio, area / ratio))
    top, left = int(generator.integers(side - height + 1)), int(generator.integers(side - width + 1))
    found = pixels.copy()
    found[top : top + height, left : left + width] = generator.integers(0, 256, (height, width, 3), np.uint8)
    return found


def rand_augment(pixels: np.ndarray, count: int, magnitude: int, generator: np.random.Generator) -> np.ndarray:
    """So many operations in a row, drawn from `OPERATIONS` (Cubuk et al., "RandAugment", 2020).

    Args:
        magnitude: from 0 (nothing) to 10.
    """
    image = require("PIL.Image").fromarray(pixels)
    names = sorted(OPERATIONS)
    for number in generator.integers(len(names), size=count):
        sign = 1 if generator.random() < 0.5 else -1
        image = OPERATIONS[names[number]](image, magnitude / _LEVELS, sign)
    return np.asarray(image)


def _affine(image: Any, a: float, b: float, c: float, d: float, e: float, f: float) -> Any:
    pil = require("PIL.Image")
    return image.transform(
        image.size, pil.Transform.AFFINE, (a, b, c, d, e, f), pil.Resampling.BILINEAR, fillcolor=_GREY
    )


def _enhanced(name: str) -> Callable[[Any, float, int], Any]:
    """Colour, contrast, brightness or sharpness, more or less of it."""

    def change(image: Any, level: float, sign: int) -> Any:
        return getattr(require("PIL.ImageEnhance"), name)(image).enhance(1 + 0.9 * level * sign)

    return change


def _rotate(image: Any, level: float, sign: int) -> Any:
    return image.rotate(30 * level * sign, require("PIL.Image").Resampling.BILINEAR, fillcolor=_GREY)


def _posterize(image: Any, level: float, sign: int) -> Any:
    return require("PIL.ImageOps").posterize(image, 8 - round(4 * level))


def _solarize(image: Any, level: float, sign: int) -> Any:
    return require("PIL.ImageOps").solarize(image, 256 - round(256 * level))


OPERATIONS: dict[str, Callable[[Any, float, int], Any]] = {
    "identity": lambda image, level, sign: image,
    "autocontrast": lambda image, level, sign: require("PIL.ImageOps").autocontrast(image),
    "equalize": lambda image, level, sign: require("PIL.ImageOps").equalize(image),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "color": _enhanced("Color"),
    "contrast": _enhanced("Contrast"),
    "brightness": _enhanced("Brightness"),
    "sharpness": _enhanced("Sharpness"),
    "shear_x": lambda image, level, sign: _affine(image, 1, 0.3 * level * sign, 0, 0, 1, 0),
    "shear_y": lambda image, level, sign: _affine(image, 1, 0, 0, 0.3 * level * sign, 1, 0),
    "move_x": lambda image, level, sign: _affine(image, 1, 0, 0.45 * level * sign * image.size[0], 0, 1, 0),
    "move_y": lambda image, level, sign: _affine(image, 1, 0, 0, 0, 1, 0.45 * level * sign * image.size[1]),
}
"""By name: (picture of Pillow, level within [0, 1], sign 1 or -1) to a picture. Some know no level, or no sign."""
