"""Batches in which some tokens are hidden, so that a student sees more texts than there are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch

from kdnative.data.batches import Batch, Batches, TokenizedDataset

__all__ = ["MaskedBatches"]


class MaskedBatches:
    """`Batches` with a share of their tokens replaced by the mask token, drawn anew in every epoch.

    The teacher of a distillation labels what is left of the text (Tang et al., "Distilling Task-Specific Knowledge from
    BERT into Simple Neural Networks", 2019), so it has to run on these batches; labels cached for whole texts are
    those of other inputs.

    Args:
        batches: what to hide tokens in.
        share: probability of each token to be hidden, within [0, 1).
        mask_id: id of the mask token.
        keep: ids that are never hidden, such as those of [CLS] and [SEP]. Padding is not either.
        seed: of the draw, which depends on (seed, epoch, batch) only.

    Raises:
        ValueError: a share outside of [0, 1).
    """

    def __init__(self, batches: Batches, share: float, mask_id: int, keep: Iterable[int] = (), seed: int = 0):
        if not 0 <= share < 1:
            raise ValueError(f"share={share}: within 0 and 1, 1 excluded")
        self.batches, self.share, self.mask_id, self.seed = batches, share, mask_id, seed
        self.keep = torch.tensor(sorted(set(keep)), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def data(self) -> TokenizedDataset:
        return self.batches.data

    @property
    def fingerprint(self) -> str:
        """As that of `Batches`."""
        settings = (self.batches.fingerprint, self.share, self.mask_id, self.keep.tolist(), self.seed)
        return hashlib.sha256(repr(settings).encode()).hexdigest()

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch `start` on."""
        for index, batch in enumerate(self.batches.epoch(number, start), start):
            ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
            drawn = np.random.Generator(np.random.PCG64([self.seed, number, index])).random(ids.shape) < self.share
            hidden = torch.from_numpy(drawn) & (mask != 0) & ~torch.isin(ids, self.keep)
            yield replace(batch, inputs={**batch.inputs, "input_ids": ids.masked_fill(hidden, self.mask_id)})
