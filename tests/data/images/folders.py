"""Small folders of pictures that a rule labels: discs are red, squares blue, crosses green, on grey noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cross", "disc", "square")


def picture(kind: str, seed: int, side: int = 20) -> np.ndarray:
    """uint8 [side, side, 3]; a shape in its colour somewhere on noise."""
    generator = np.random.Generator(np.random.PCG64(seed))
    found = generator.integers(90, 166, (side, side, 3), np.uint8)
    y, x = np.mgrid[:side, :side] - generator.integers(side // 3, side - side // 3, (2, 1, 1))
    size = side // 4
    inside = {
        "disc": x * x + y * y <= size * size,
        "square": np.maximum(abs(x), abs(y)) <= size,
        "cross": (np.minimum(abs(x), abs(y)) <= 1) & (np.maximum(abs(x), abs(y)) <= size),
    }[kind]
    found[inside] = {"disc": (220, 20, 20), "square": (20, 20, 220), "cross": (20, 200, 20)}[kind]
    return found


def write_folder(folder: Path, each: int = 20, side: int = 20, classes: tuple[str, ...] = CLASSES) -> Path:
    """A folder for each class with so many PNG files, named by number."""
    for number, kind in enumerate(classes):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            Image.fromarray(picture(kind, 1000 * number + i, side)).save(folder / kind / f"{kind}_{i:03}.png")
    return folder
