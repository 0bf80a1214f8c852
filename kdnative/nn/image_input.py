"""From a picture to what a model reads: part of a checkpoint, so that a loaded model takes pictures."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdnative.extras import require
from kdnative.shown import shown

__all__ = ["FITS", "INTERPOLATIONS", "ImageInput"]

FITS = ("crop", "pad", "stretch")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_MOST_PIXELS = 1 << 14  # of a side
_MOST = torch.finfo(torch.float32).max  # integers may be larger than any float


@dataclass(frozen=True)
class ImageInput:
    """How a model is given pictures: upright, on white where they are transparent, resized, normalised.

    ``model.preprocess = ImageInput(...)`` makes it part of the model: :func:`kdnative.save` writes it, and
    :func:`kdnative.load` gives it back, with its classes as ``model.classes``.

    Args:
        size: height and width of what the model is given, pixels; one number is both.
        shorter: the shorter side is resized to this many pixels, then the middle is cropped, as torchvision does it
            (256 and 224). None: `fit` says what is done.
        fit: "crop" (the middle, as much as there is of that shape, is resized), "pad" (all of it, on white) or
            "stretch".
        mean, std: of each channel, as shares of 255: ``(pixel / 255 - mean) / std``; three for RGB, one for grey.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos", of Pillow.
        classes: names of the model's outputs, in order; may be empty.

    Raises:
        ValueError: a value that is not allowed.
    """

    size: tuple[int, int] = (224, 224)
    shorter: int | None = None
    fit: str = "crop"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std", "classes"):
            object.__setattr__(self, name, _several(name, getattr(self, name)))
        sides = (*self.size, *(() if self.shorter is None else (self.shorter,)))
        if len(self.size) != 2 or not all(type(s) is int and 1 <= s <= _MOST_PIXELS for s in sides):
            raise ValueError(
                f"size must be a height and a width, and shorter None or a number, from 1 to {_MOST_PIXELS} pixels "
                f"(got {shown(self.size)} and {shown(self.shorter)})"
            )
        if self.fit not in FITS or self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"fit must be one of {', '.join(FITS)} and interpolation one of {', '.join(INTERPOLATIONS)} (got "
                f"{shown(self.fit)} and {shown(self.interpolation)})"
            )
        if self.shorter is not None and self.fit != "crop":
            raise ValueError(f"shorter goes with fit='crop', which it crops after resizing (got {self.fit!r})")
        if self.shorter is not None and self.shorter < max(self.size):
            raise ValueError(
                f"shorter ({self.shorter}) must not be below size {self.size}: there would be nothing to crop"
            )
        numbers = (*self.mean, *self.std)
        sound = all(type(v) in (int, float) and abs(v) <= _MOST for v in numbers)
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std) or not sound or min(self.std) <= 0:
            raise ValueError(
                f"mean and std must be three finite numbers each (RGB) or one (grey), std above 0 (got "
                f"{shown(self.mean)} and {shown(self.std)})"
            )
        for name in ("mean", "std"):  # an integer may be more than tensors take
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if not all(isinstance(name, str) for name in self.classes):
            raise ValueError(f"classes must be texts (got {shown(self.classes)})")

    @classmethod
    def from_timm(cls, config: dict[str, Any]) -> ImageInput:
        """That of a timm model's ``pretrained_cfg``, as ``timm.data.create_transform`` reads it for evaluation.

        Raises:
            KeyError, ValueError: pictures of another number of channels, or an interpolation that Pillow lacks.
        """
        height, width = config["input_size"][1:]
        fit = {"squash": "stretch", "border": "pad"}.get(config.get("crop_mode", "center"), "crop")
        method = config.get("interpolation", "bicubic")
        return cls(
            (height, width),
            int(min(height, width) / config.get("crop_pct", 0.875)) if fit == "crop" else None,
            fit,
            tuple(config["mean"]),
            tuple(config["std"]),
            "bilinear" if method == "random" else method,
            tuple(config.get("label_names") or ()),
        )

    def __call__(self, pictures: Any) -> Tensor:
        """Pictures as a batch.

        Args:
            pictures: a picture of Pillow or the path of a file, or a list of these.

        Returns:
            float32 ``[N, 3, H, W]`` (1 channel for grey), the channels last in memory; N is 1 for one picture.

        Raises:
            ValueError: a file is no picture that can be read. FileNotFoundError: there is none.
            ImportError: Pillow is not installed.
        """
        require("PIL.Image", "reading pictures")
        several = isinstance(pictures, Sequence) and not isinstance(pictures, (str, os.PathLike))
        arrays = [self.pixels(picture) for picture in (pictures if several else [pictures])]
        height, width = self.size
        pixels = np.stack(arrays) if arrays else np.zeros((0, height, width, len(self.mean)), np.uint8)
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return ((x / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def pixels(self, picture: Any) -> np.ndarray:
        """One picture as a square or rectangle of bytes: uint8 [H, W, channels]; errors as above."""
        image = require("PIL.Image")
        if isinstance(picture, image.Image):
            return self._resized(picture)
        if not isinstance(picture, (str, os.PathLike)):
            raise TypeError(f"a picture is one of Pillow or the path of a file, not a {type(picture).__name__}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", image.DecompressionBombWarning)
                with image.open(picture) as opened:
                    return self._resized(opened)
        except FileNotFoundError:
            raise
        except Exception as error:  # Pillow's decoders raise whatever a broken file makes them
            text = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{picture}: not a picture that can be read: {text[:200]}") from error

    def _resized(self, opened: Any) -> np.ndarray:
        image, ops = require("PIL.Image"), require("PIL.ImageOps")
        upright = _of_bytes(ops.exif_transpose(opened), image)
        found = _on_white(upright, image).convert("RGB" if len(self.mean) == 3 else "L")
        method = getattr(image.Resampling, self.interpolation.upper())
        height, width = self.size
        if self.shorter is not None:
            found = _middle(_with_shorter(found, self.shorter, method), height, width)
        elif self.fit == "crop":
            found = ops.fit(found, (width, height), method)
        elif self.fit == "pad":
            found = ops.pad(found, (width, height), method, color="white")
        else:
            found = found.resize((width, height), method)
        return np.asarray(found).reshape(height, width, len(self.mean))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v for f in fields(self)}

    @classmethod
    def from_json(cls, plain: Any) -> ImageInput:
        """What `to_json` wrote.

        Raises:
            ValueError: an entry is missing, unknown, or of another kind than it must be.
        """
        names = {f.name for f in fields(cls)}
        if not isinstance(plain, dict) or plain.keys() != names:
            raise ValueError(f"the image input must be a table of {', '.join(sorted(names))}, not {shown(plain)}")
        for name in ("size", "mean", "std", "classes"):
            if not isinstance(plain[name], list):
                raise ValueError(f"the image input's {name} must be a list, not {shown(plain[name])}")
        for name in ("fit", "interpolation"):
            if not isinstance(plain[name], str):
                raise ValueError(f"the image input's {name} must be a text, not {shown(plain[name])}")
        return cls(**plain)


def _several(name: str, values: Any) -> tuple[Any, ...]:
    if name == "size" and type(values) is int:
        return values, values
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a tuple or a list, of one value too (got {shown(values)})")
    return tuple(values)


def _of_bytes(found: Any, image: Any) -> Any:
    """The picture with 8 bits a channel; ValueError where nobody can say what is white in it."""
    if found.mode.startswith("I;16"):  # Pillow would clip at 255
        return image.fromarray(((np.asarray(found).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if found.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are {'integers' if found.mode == 'I' else 'floats'} of 32 bits, of which it does not say what "
            "is white: store it with 8 or 16 bits, from 0 (black) to the largest number (white)"
        )
    return found


def _on_white(found: Any, image: Any) -> Any:
    """The picture without transparency."""
    if found.mode not in ("RGBA", "LA", "PA") and "transparency" not in found.info:
        return found
    found = found.convert("RGBA")
    return image.alpha_composite(image.new("RGBA", found.size, "white"), found)


def _with_shorter(found: Any, shorter: int, method: Any) -> Any:
    """Resized so that its shorter side has as many pixels, as torchvision's ``Resize(shorter)`` rounds."""
    width, height = found.size
    longer = int(shorter * max(width, height) / min(width, height))
    if longer > 4 * _MOST_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels, which is too narrow for a shorter side of {shorter}")
    return found.resize((shorter, longer) if width <= height else (longer, shorter), method)


def _middle(found: Any, height: int, width: int) -> Any:
    """As torchvision's ``CenterCrop`` rounds."""
    left, top = round((found.width - width) / 2), round((found.height - height) / 2)
    return found.crop((left, top, left + width, top + height))
