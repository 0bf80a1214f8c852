"""Tokenised datasets in memory, and batches of similar lengths."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from kdnative.data.types import PAIR, TEXT, DataError, Dataset

__all__ = ["UNLABELLED", "Batch", "Batches", "EncodedDataset", "TokenizedDataset", "collate", "labels_of", "tokenize"]

UNLABELLED = -100  # the class number of an example without a label, as torch's losses have it; a target is NaN there

POOL = 64  # batches sorted by length together: large enough to waste little, small enough to keep epochs random


@dataclass(frozen=True)
class Batch:
    """What a training or evaluation step needs.

    Attributes:
        inputs: keyword arguments of the model, batch first: of texts ``input_ids``, ``attention_mask`` and perhaps
            ``token_type_ids``, int64 [B, T]; of pictures ``x``, fp32 [B, 3, H, W].
        labels: int64 [B], `UNLABELLED` where there is none; or targets, fp32 [B], NaN where there is none; None for
            data without any.
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


class EncodedDataset(Sequence):
    """Examples as a model reads them: what `Batches` are made of, and what soft labels know their examples by.

    Attributes:
        labels: as in a `Batch`, of all N examples, or None. source: the Dataset.
    """

    labels: np.ndarray | None
    source: Dataset

    @property
    @abstractmethod
    def lengths(self) -> np.ndarray:
        """int64 [N], the size of every example; batches are made of similar ones."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the data and of everything that decides what the model is given."""

    @abstractmethod
    def batch(self, rows: np.ndarray | Sequence[int], multiple: int = 1) -> Batch:
        """The batch of these examples, their sizes made equal and rounded up to a multiple of so many."""

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.source.labels


class TokenizedDataset(EncodedDataset):
    """Token ids of every example, back to back in one array.

    Attributes:
        ids: int32 [total tokens]. offsets: int64 [N + 1]; example i is ``ids[offsets[i]:offsets[i + 1]]``.
        labels: as in a `Batch`, of all N examples, or None. pad_id: what `collate` fills with. source: the Dataset.
        types: int8 [total tokens], which of two texts a token is of; None where the model does not read that.
    """

    def __init__(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        labels: np.ndarray | None,
        pad_id: int,
        source: Dataset,
        types: np.ndarray | None = None,
    ):
        self.ids, self.offsets, self.labels, self.pad_id, self.source = ids, offsets, labels, pad_id, source
        self.types = types

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override] # no slices, whose lengths would differ
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N], tokens of every example."""
        return np.diff(self.offsets)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the data and of the token ids: another tokenizer or maximum length gives another one."""
        digest = hashlib.sha256(self.source.fingerprint.encode())
        digest.update(str(self.pad_id).encode() + self.offsets.tobytes() + self.ids.tobytes())
        if self.types is not None:
            digest.update(self.types.tobytes())
        return digest.hexdigest()

    def batch(self, rows: np.ndarray | Sequence[int], multiple: int = 1) -> Batch:
        """The batch of these examples, padded on the right to a multiple of so many tokens.

        It is the ``collate_fn`` of a `torch.utils.data.DataLoader` over ``range(len(data))``.
        """
        rows = np.asarray(rows, np.int64)
        inputs = collate([self[int(i)] for i in rows], self.pad_id, multiple)
        if self.types is not None:
            types = [self.types[self.offsets[i] : self.offsets[i + 1]] for i in rows]
            inputs["token_type_ids"] = collate(types, 0, multiple)["input_ids"]
        labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
        return Batch(inputs, labels, torch.from_numpy(rows))


def tokenize(dataset: Dataset, tokenizer: Any, max_length: int = 128) -> TokenizedDataset:
    """Tokenises a dataset once, without padding; pairs of texts as one, as the tokenizer joins them.

    Args:
        dataset: the texts.
        tokenizer: a Hugging Face tokenizer (special tokens are added as it is configured). Of pairs it also gives
            token types, if it has ``token_type_ids`` among its ``model_input_names``.
        max_length: longer texts (of a pair, the longer one first) are cut to this many tokens, special tokens included.

    Raises:
        DataError: the tokenizer has no padding token. ValueError: max_length below 2.
    """
    if max_length < 2:
        raise ValueError(f"max_length={max_length}: at least 2")
    if getattr(tokenizer, "pad_token_id", None) is None:
        raise DataError(f"{type(tokenizer).__name__} has no padding token; set tokenizer.pad_token first")
    encoded: dict[str, list[list[int]]] = {"input_ids": []}
    if len(dataset):
        pairs = (dataset.column(PAIR),) if PAIR in dataset[0].fields else ()
        types = bool(pairs) and "token_type_ids" in tokenizer.model_input_names
        options = {"return_attention_mask": False, "return_token_type_ids": types}
        encoded = tokenizer(dataset.column(TEXT), *pairs, truncation=True, max_length=max_length, **options)
    rows = encoded["input_ids"]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(ids) for ids in rows], out=offsets[1:])
    ids = np.fromiter((i for row in rows for i in row), np.int32, int(offsets[-1]))
    types = None
    if "token_type_ids" in encoded:
        types = np.fromiter((i for row in encoded["token_type_ids"] for i in row), np.int8, int(offsets[-1]))
    return TokenizedDataset(ids, offsets, labels_of(dataset), int(tokenizer.pad_token_id), dataset, types)


def labels_of(dataset: Dataset) -> np.ndarray | None:
    """The labels of a data set as a `Batch` has them; None where it has none."""
    if not dataset.labelled:
        return None
    kind, missing = (np.int64, UNLABELLED) if dataset.labels else (np.float32, np.nan)
    return np.array([missing if e.label is None else e.label for e in dataset], kind)


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
    """Batches of an encoded dataset, in an order that depends on (seed, epoch) only.

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
        data: EncodedDataset,
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
            yield self.data.batch(rows, self.multiple)

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
