"""The classification data everything else passes around: examples, datasets, splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

__all__ = ["DataError", "DataSplits", "Dataset", "Example", "by_hash"]


class DataError(ValueError):
    """Data that cannot be used; the message names the file and, where there is one, the line."""


@dataclass(frozen=True)
class Example:
    """One text, its class number (None in unlabelled data) and an identifier that is unique in its dataset."""

    text: str
    label: int | None
    id: str


class Dataset(Sequence):
    """Examples in a fixed order, with the names of their classes.

    Args:
        examples: the examples; all labelled or none.
        labels: class names, ``labels[example.label]``; empty for unlabelled data.
        name: used in messages, such as ``"movie-reviews/train"``.

    Raises:
        DataError: a label outside of the names, a repeated id, or a mix of labelled and unlabelled examples.
    """

    def __init__(self, examples: Sequence[Example], labels: Sequence[str] = (), name: str = "data"):
        self.examples = tuple(examples)
        self.labels = tuple(labels)
        self.name = name
        labelled = sum(e.label is not None for e in self.examples)
        if labelled not in (0, len(self.examples)):
            raise DataError(f"{name}: {labelled} of {len(self.examples)} examples have a label; label all or none")
        seen: set[str] = set()
        for e in self.examples:
            if e.label is not None and not 0 <= e.label < len(self.labels):
                raise DataError(f"{name}: example {e.id!r} has label {e.label}; there are {len(self.labels)} classes")
            if e.id in seen:
                raise DataError(f"{name}: the id {e.id!r} occurs twice; ids must be unique within a split")
            seen.add(e.id)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Dataset(self.examples[index], self.labels, self.name)
        return self.examples[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {len(self)} examples, labels={list(self.labels)})"

    @property
    def labelled(self) -> bool:
        """Whether the examples have labels (False for an empty dataset)."""
        return bool(self.examples) and self.examples[0].label is not None

    @property
    def texts(self) -> list[str]:
        return [e.text for e in self.examples]

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples of each class."""
        found = [0] * len(self.labels)
        for e in self.examples:
            if e.label is not None:
                found[e.label] += 1
        return dict(zip(self.labels, found, strict=True))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of class names, ids, labels and texts in order; the name does not count."""
        digest = hashlib.sha256()
        for part in (*self.labels, *(v for e in self.examples for v in (e.id, str(e.label), e.text))):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()

    def head(self, limit: int | None) -> Dataset:
        """At most `limit` examples in their order, chosen by a hash of the text: a sorted file stays balanced."""
        if limit is None or limit >= len(self):
            return self
        kept = sorted(sorted(range(len(self)), key=lambda i: (_text_hash(self[i].text), i))[:limit])
        return Dataset([self[i] for i in kept], self.labels, self.name)


@dataclass(frozen=True)
class DataSplits:
    """Three datasets over the same classes."""

    train: Dataset
    validation: Dataset
    test: Dataset

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names."""
        return self.train.labels

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the fingerprints of the splits."""
        joined = "".join(d.fingerprint for d in (self.train, self.validation, self.test))
        return hashlib.sha256(joined.encode()).hexdigest()

    def summary(self) -> dict[str, dict[str, int]]:
        """{split: {class: count}}."""
        return {name: getattr(self, name).counts for name in ("train", "validation", "test")}


def _text_hash(text: str) -> int:
    """256-bit hash of a text, the same for texts that differ in case or white space only."""
    normal = " ".join(text.split()).casefold()
    return int.from_bytes(hashlib.sha256(normal.encode("utf-8", "surrogatepass")).digest(), "big")


def by_hash(dataset: Dataset, shares: tuple[float, ...], names: Sequence[str]) -> list[Dataset]:
    """Splits by a hash of the text alone: the same text always lands in the same part.

    Unlike a shuffled split, it stays fixed when rows are added or reordered, and a repeated sentence (whatever its
    id) never sits in both training and test data.

    Args:
        dataset: what to split; order is kept within the parts.
        shares: non-negative shares, at least one above 0; they are divided by their sum.
        names: one name for each share.
    """
    if len(shares) != len(names) or not shares or min(shares) < 0 or not sum(shares) > 0:
        raise ValueError(f"split={shares!r}: give {len(names)} shares >= 0 that are not all 0, such as (0.8, 0.1, 0.1)")
    ends = [sum(shares[: i + 1]) / sum(shares) for i in range(len(shares) - 1)]
    parts: list[list[Example]] = [[] for _ in shares]
    for e in dataset:
        position = _text_hash(e.text) / 2**256
        parts[sum(position >= end for end in ends)].append(e)
    return [Dataset(p, dataset.labels, f"{dataset.name}/{n}") for p, n in zip(parts, names, strict=True)]
