"""Pictures as a model reads them: fp32 batches, normalised, the channels last in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kdnative.data.batches import Batch, EncodedDataset, labels_of
from kdnative.data.types import IMAGE, DataError, Dataset

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ImageDataset", "Preprocessing"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """From bytes to what a model reads: ``(pixel / 255 - mean) / std`` of each channel, at one size.

    Attributes:
        size: of the square, pixels. mean, std: of red, green and blue, as shares of 255.
    """

    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.size < 1 or min(self.std) <= 0:
            raise ValueError(f"size={self.size}, std={self.std}: at least 1 pixel, and above 0")
        for name in ("mean", "std"):  # lists, where they come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def __call__(self, pixels: Tensor) -> Tensor:
        """fp32 [N, 3, size, size], the channels last in memory, of uint8 [N, H, W, 3]."""
        x = pixels.permute(0, 3, 1, 2).float()  # a view of channels-last memory stays one
        if x.shape[-1] != self.size:
            x = torch.nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((x / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


class ImageDataset(EncodedDataset):
    """The pictures of a dataset, normalised batch by batch.

    Args:
        source: examples with an "image" (see `load_images`). preprocessing: what a model is given of them.
    """

    def __init__(self, source: Dataset, preprocessing: Preprocessing):
        self.source, self.preprocessing, self.labels = source, preprocessing, labels_of(source)
        if len(source) and IMAGE not in source[0].fields:
            raise DataError(f"{source.name}: its examples are not pictures; load them with load_images")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override] # no slices
        """uint8 [side, side, 3]."""
        return self.source[index].fields[IMAGE].pixels

    @cached_property
    def lengths(self) -> np.ndarray:
        """All alike, so that batches are made of any."""
        return np.ones(len(self), np.int64)

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.source.fingerprint.encode())
        side = self[0].shape[0] if len(self) else 0
        digest.update(repr((side, self.preprocessing)).encode())
        return digest.hexdigest()

    def pixels(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """uint8 [len(rows), side, side, 3]."""
        return np.stack([self[int(i)] for i in rows])

    def batch(self, rows: np.ndarray | Sequence[int], multiple: int = 1) -> Batch:
        return self.made(rows, self.pixels(rows))

    def made(self, rows: np.ndarray | Sequence[int], pixels: np.ndarray) -> Batch:
        """The batch of these examples with other pixels, such as augmented ones."""
        rows = np.asarray(rows, np.int64)
        labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
        return Batch({"x": self.preprocessing(torch.from_numpy(pixels))}, labels, torch.from_numpy(rows))
