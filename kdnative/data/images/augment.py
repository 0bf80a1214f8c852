"""Batches of pictures that differ from one epoch to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kdnative.data.batches import Batch, Batches
from kdnative.data.images.changes import crop, erase, rand_augment
from kdnative.data.images.encoded import ImageDataset

__all__ = ["AugmentedBatches", "Augmentation", "MixedBatch"]


@dataclass(frozen=True)
class Augmentation:
    """How training pictures are changed, in this order.

    Attributes:
        crop: the smallest share of the area that a random crop keeps, within (0, 1]; 1 crops nothing.
        flip: probability of a picture to be mirrored.
        operations, magnitude: of RandAugment; 0 operations leave it out.
        erase: probability of a rectangle to be erased.
        mixup: alpha of the beta distribution that shares are drawn from (Zhang et al., "mixup", 2018); 0: none.
    """

    crop: float = 0.35
    flip: float = 0.5
    operations: int = 0
    magnitude: int = 9
    erase: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        shares = 0 < self.crop <= 1 and 0 <= self.flip <= 1 and 0 <= self.erase <= 1
        if not shares or not 0 <= self.magnitude <= 10 or self.operations < 0 or self.mixup < 0:
            raise ValueError(
                f"{self}: crop within (0, 1], flip and erase within [0, 1], magnitude within [0, 10], the others from 0"
            )

    def __call__(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """One picture, uint8 [side, side, 3], changed but for mixup."""
        if self.crop < 1:
            pixels = crop(pixels, self.crop, generator)
        if generator.random() < self.flip:
            pixels = pixels[:, ::-1]
        if self.operations:
            pixels = rand_augment(np.ascontiguousarray(pixels), self.operations, self.magnitude, generator)
        return erase(pixels, generator) if generator.random() < self.erase else pixels


@dataclass(frozen=True)
class MixedBatch(Batch):
    """A batch whose pictures are sums: `share` of each with its own label, the rest of another with `others`.

    Attributes:
        others: as `labels`. share: within [0.5, 1], of the whole batch.
    """

    others: torch.Tensor | None = None
    share: float = 1.0

    def to(self, device: torch.device | str) -> MixedBatch:
        others = None if self.others is None else self.others.to(device)
        return MixedBatch(**{**vars(super().to(device)), "others": others})


class AugmentedBatches:
    """`Batches` of pictures that are changed anew in every epoch.

    A picture's changes depend on (seed, epoch, its number) only, so that a training that is resumed sees the same. A
    last batch of one picture joins the one before it: batch normalisation can't learn from one.

    Args:
        batches: of an `ImageDataset`. augmentation: the changes. seed: of what is drawn.
    """

    def __init__(self, batches: Batches, augmentation: Augmentation, seed: int = 0):
        self.batches, self.augmentation, self.seed = batches, augmentation, seed

    def __len__(self) -> int:
        return max(1, len(self.batches) - self._has_lone()) if len(self.data) else 0

    @property
    def data(self) -> ImageDataset:
        return self.batches.data

    @property
    def fingerprint(self) -> str:
        """As that of `Batches`."""
        settings = (self.batches.fingerprint, self.augmentation, self.seed)
        return hashlib.sha256(repr(settings).encode()).hexdigest()

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch `start` on."""
        for index, rows in enumerate(self.order(number)[start:], start):
            batch = self.data.made(rows, np.stack([self._changed(int(i), number) for i in rows]))
            yield self._mixed(batch, number, index)

    def order(self, number: int) -> list[np.ndarray]:
        """The example numbers of every batch of an epoch, int64."""
        order = self.batches.order(number)
        lone = next((i for i, rows in enumerate(order) if len(rows) == 1), None)
        if lone is None or len(order) == 1:
            return order
        rows = order.pop(lone)
        order[lone - 1] = np.concatenate([order[lone - 1], rows])
        return order

    def _has_lone(self) -> bool:
        return len(self.data) % self.batches.batch_size == 1 % self.batches.batch_size and len(self.data) > 1

    def _changed(self, row: int, epoch: int) -> np.ndarray:
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch, row]))
        return self.augmentation(self.data[row], generator)

    def _mixed(self, batch: Batch, epoch: int, index: int) -> Batch:
        """Each picture with its opposite in the batch; one share for all, so that two cross entropies tell the loss."""
        if not self.augmentation.mixup:
            return batch
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch, index, 1]))
        share = float(generator.beta(self.augmentation.mixup, self.augmentation.mixup))
        share = max(share, 1 - share)
        x = batch.inputs["x"]
        mixed = (share * x + (1 - share) * x.flip(0)).contiguous(memory_format=torch.channels_last)
        others = None if batch.labels is None else batch.labels.flip(0)
        return MixedBatch({"x": mixed}, batch.labels, batch.index, others, share)
