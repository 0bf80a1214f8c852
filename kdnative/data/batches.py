"""Tokenised datasets in memory, and batches of similar lengths."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from kdnative.data.types import DataError, Dataset

__all__ = ["Batch", "Batches", "TokenizedDataset", "collate", "tokenize"]

POOL = 64  # batches sorted by length together: large enough to waste little, small enough to keep epochs random


@dataclass(frozen=True)
class Batch:
    """What a training or evaluation step needs.

    Attributes:
        inputs: keyword arguments of the model: ``input_ids`` and ``attention_mask``, int64 [B, T] (or whatever a
            model of another kind takes, batch first).
        labels: int64 [B], or None for unlabelled data.
        index: int64 [B], the examples' positions in the dataset; what cached soft labels are looked up by.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor | None
    index: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device (`index` stays: it selects from caches in host memory)."""
        inputs = {name: v.to(device, non_blocking=True) for name, v in self.inputs.items()}
        return replace(self, inputs=inputs, labels=None if self.labels is None else self.labels.to(device))

    def __len__(self) -> int:
        return len(self.index)


class TokenizedDataset(Sequence):
    """Token ids of every example, back to back in one array.

    Attributes:
        ids: int32 [total tokens]. offsets: int64 [N + 1]; example i is ``ids[offsets[i]:offsets[i + 1]]``.
        labels: int64 [N] or None. pad_id: what `collate` fills with. source: the Dataset.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, labels: np.ndarray | None, pad_id: int, source: Dataset):
        self.ids, self.offsets, self.labels, self.pad_id, self.source = ids, offsets, labels, pad_id, source

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N], tokens of every example."""
        return np.diff(self.offsets)

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.source.labels

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the data and of the token ids: another tokenizer or maximum length gives another one."""
        digest = hashlib.sha256(self.source.fingerprint.encode())
        digest.update(str(self.pad_id).encode() + self.offsets.tobytes() + self.ids.tobytes())
        return digest.hexdigest()


def tokenize(dataset: Dataset, tokenizer: Any, max_length: int = 128) -> TokenizedDataset:
    """Tokenises a dataset once, without padding.

    Args:
        dataset: the texts.
        tokenizer: a Hugging Face tokenizer (special tokens are added as it is configured).
        max_length: longer texts are cut to this many tokens, special tokens included.

    Raises:
        DataError: the tokenizer has no padding token. ValueError: max_length below 2.
    """
    if max_length < 2:
        raise ValueError(f"max_length={max_length}: at least 2")
    if getattr(tokenizer, "pad_token_id", None) is None:
        raise DataError(f"{type(tokenizer).__name__} has no padding token; set tokenizer.pad_token first")
    encoded: list[list[int]] = []
    if len(dataset):
        options = {"return_attention_mask": False, "return_token_type_ids": False}
        encoded = tokenizer(dataset.texts, truncation=True, max_length=max_length, **options)["input_ids"]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(ids) for ids in encoded], out=offsets[1:])
    ids = np.fromiter((i for row in encoded for i in row), np.int32, int(offsets[-1]))
    labels = np.array([e.label for e in dataset], np.int64) if dataset.labelled else None
    return TokenizedDataset(ids, offsets, labels, int(tokenizer.pad_token_id), dataset)


def collate(rows: Sequence[np.ndarray], pad_id: int, multiple: int = 1) -> dict[str, torch.Tensor]:
    """Pads rows of token ids on the right to the longest (rounded up to `multiple`).

    Returns:
        ``input_ids`` and ``attention_mask``, int64 [len(rows), T].
    """
    if multiple < 1:
        raise ValueError(f"multiple={multiple}: at least 1")
    width = math.ceil(max(map(len, rows), default=0) / multiple) * multiple
    ids = np.full((len(rows), width), pad_id, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


class Batches:
    """Batches of a tokenised dataset, in an order that depends on (seed, epoch) only.

    Shuffling permutes the examples, sorts pools of 64 batches by length and shuffles the batches: padding almost
    vanishes and every epoch still mixes differently. Without shuffling the examples come in order of length, longest
    first (the largest batch shows at once whether it fits), or in the dataset's order with ``by_length=False``.

    Args:
        data: the dataset.
        batch_size: examples in a batch; the last one (not the last in order when shuffled) may be smaller.
        shuffle: a new order every epoch.
        seed: of the order.
        by_length: group examples of similar lengths.
        multiple: pad to a multiple of this many tokens.
    """

    def __init__(
        self,
        data: TokenizedDataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        by_length: bool = True,
        multiple: int = 1,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least 1")
        self.data, self.batch_size, self.shuffle = data, batch_size, shuffle
        self.seed, self.by_length, self.multiple = seed, by_length, multiple

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    @property
    def fingerprint(self) -> str:
        """Of the data and everything that decides the batches; training resumes only where it is the same."""
        settings = (self.batch_size, self.shuffle, self.seed, self.by_length, self.multiple)
        return hashlib.sha256(f"{self.data.fingerprint}{settings}".encode()).hexdigest()

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch `start` on."""
        for rows in self.order(number)[start:]:
            labels = None if self.data.labels is None else torch.from_numpy(self.data.labels[rows])
            inputs = collate([self.data[int(i)] for i in rows], self.data.pad_id, self.multiple)
            yield Batch(inputs, labels, torch.from_numpy(rows))

    def order(self, number: int) -> list[np.ndarray]:
        """The example numbers of every batch of an epoch, int64."""
        size, lengths = self.batch_size, self.data.lengths
        if not self.shuffle:
            rows = np.argsort(-lengths, kind="stable") if self.by_length else np.arange(len(self.data))
            return [rows[i : i + size] for i in range(0, len(rows), size)]
        generator = np.random.Generator(np.random.PCG64([self.seed, number]))
        rows = generator.permutation(len(self.data))
        pool = size * POOL if self.by_length else size
        batches = []
        for i in range(0, len(rows), pool):
            part = rows[i : i + pool]
            if self.by_length:
                part = part[np.argsort(lengths[part], kind="stable")]
            batches += [part[j : j + size] for j in range(0, len(part), size)]
        return [batches[i] for i in generator.permutation(len(batches))]
