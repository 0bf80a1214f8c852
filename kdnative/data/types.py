"""What everything else passes around: examples, datasets, splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

__all__ = ["IMAGE", "LABEL", "PAIR", "TEXT", "DataError", "DataSplits", "Dataset", "Example", "KindError"]
__all__ += ["Value", "by_hash", "text_hash"]

TEXT, PAIR, IMAGE, LABEL = "text", "text_pair", "image", "label"  # names of fields
Value = Any  # texts, numbers, None, or a picture, which has a digest


class DataError(ValueError):
    """Data that cannot be used; the message names the file and, where there is one, the line."""


class KindError(DataError):
    """A text or a label that is of another kind than the task reads, such as a list of labels."""


@dataclass(frozen=True)
class Example:
    """Fields by name, and an identifier that is unique in its dataset.

    A task decides which fields there are. Those of texts are "text" and "text_pair", that of pictures is "image" (a
    `kdnative.data.images.Picture`); "label" is the number of a class (int), a target (float), or None where nobody gave
    one.
    """

    fields: Mapping[str, Value]
    id: str

    def __getitem__(self, field: str) -> Value:
        return self.fields[field]

    @property
    def label(self) -> int | float | None:
        return self.fields.get(LABEL)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, one or two."""
        return tuple(self.fields[name] for name in (TEXT, PAIR) if name in self.fields)

    @property
    def content(self) -> tuple[str, ...]:
        """What makes two examples the same one: the texts, or the digest of the picture."""
        return self.texts or ((self.fields[IMAGE].digest,) if IMAGE in self.fields else ())


class Dataset(Sequence):
    """Examples in a fixed order, with the names of their classes.

    Args:
        examples: the examples, labelled all, in part or not at all.
        labels: class names, ``labels[example.label]``; empty where labels are targets, or there are none.
        name: used in messages, such as ``"movie-reviews/train"``.

    Raises:
        DataError: a label outside of the names, a target that is not finite, or a repeated id.
    """

    def __init__(self, examples: Sequence[Example], labels: Sequence[str] = (), name: str = "data"):
        self.examples = tuple(examples)
        self.labels = tuple(labels)
        self.name = name
        seen: set[str] = set()
        for e in self.examples:
            self._check_label(e)
            if e.id in seen:
                raise DataError(f"{name}: the id {e.id!r} occurs twice; ids must be unique within a split")
            seen.add(e.id)

    def _check_label(self, e: Example) -> None:
        if isinstance(e.label, float):
            if self.labels or not math.isfinite(e.label):
                problem = "and there are classes" if self.labels else "which is not finite"
                raise DataError(f"{self.name}: example {e.id!r} has the target {e.label}, {problem}")
        elif e.label is not None and not 0 <= e.label < len(self.labels):
            raise DataError(f"{self.name}: example {e.id!r} has label {e.label}; there are {len(self.labels)} classes")

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

    def column(self, field: str) -> list[Value]:
        """One field of every example.

        Raises:
            DataError: an example lacks it.
        """
        missing = next((e.id for e in self.examples if field not in e.fields), None)
        if missing is not None:
            raise DataError(f"{self.name}: example {missing!r} has no field {field!r}")
        return [e.fields[field] for e in self.examples]

    @property
    def labelled(self) -> int:
        """How many examples have a label."""
        return sum(e.label is not None for e in self.examples)

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples of each class."""
        found = [0] * len(self.labels)
        for e in self.examples if self.labels else ():
            if e.label is not None:
                found[e.label] += 1
        return dict(zip(self.labels, found, strict=True))

    def summary(self) -> dict[str, int | float]:
        """For people: examples of each class, or mean and range of the targets; and those without a label."""
        found: dict[str, int | float] = dict(self.counts)
        targets = [e.label for e in self.examples if isinstance(e.label, float)]
        if targets:
            mean = round(sum(targets) / len(targets), 4)
            found = {"examples": len(self), "mean": mean, "smallest": min(targets), "largest": max(targets)}
        without = len(self) - self.labelled
        return {**found, "without a label": without} if without else found

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of class names, ids, labels and contents in order; the name does not count."""
        digest = hashlib.sha256()
        for part in (*self.labels, *(v for e in self.examples for v in (e.id, str(e.label), *e.content))):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()

    def head(self, limit: int | None) -> Dataset:
        """At most `limit` examples in their order, chosen by a hash of the content: a sorted file stays balanced."""
        if limit is None or limit >= len(self):
            return self
        kept = sorted(sorted(range(len(self)), key=lambda i: (text_hash(self[i].content), i))[:limit])
        return Dataset([self[i] for i in kept], self.labels, self.name)


@dataclass(frozen=True)
class DataSplits:
    """Three datasets over the same classes, or of targets.

    Attributes:
        train, validation, test: the splits.
        notes: for people: what was done to the data while it was read, a sentence each.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    notes: tuple[str, ...] = ()

    @cached_property
    def labelled(self) -> Dataset:
        """The training examples that have a label: what can be learned from without a teacher."""
        train = self.train
        if train.labelled == len(train):
            return train
        return Dataset([e for e in train if e.label is not None], train.labels, train.name)

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of examples: "labelled" and "unlabelled" ones to train on, "validation" and "test"."""
        labelled = self.train.labelled
        sizes = {"labelled": labelled, "unlabelled": len(self.train) - labelled}
        return {**sizes, "validation": len(self.validation), "test": len(self.test)}

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; none where labels are targets."""
        return self.train.labels

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the fingerprints of the splits."""
        joined = "".join(d.fingerprint for d in (self.train, self.validation, self.test))
        return hashlib.sha256(joined.encode()).hexdigest()

    def summary(self) -> dict[str, dict[str, int | float]]:
        """{split: what `Dataset.summary` says}."""
        return {name: getattr(self, name).summary() for name in ("train", "validation", "test")}


def text_hash(texts: Sequence[str]) -> int:
    """256-bit hash of the texts of an example.

    It is the same for texts that differ in case or white space only, and for a pair in either order.
    """
    normal = "\0".join(sorted(" ".join(text.split()).casefold() for text in texts))
    return int.from_bytes(hashlib.sha256(normal.encode("utf-8", "surrogatepass")).digest(), "big")


def by_hash(dataset: Dataset, shares: tuple[float, ...], names: Sequence[str]) -> list[Dataset]:
    """Splits by a hash of the texts alone: the same text (or pair) always lands in the same part.

    Unlike a shuffled split, it stays fixed when rows are added or reordered, and a repeated sentence (whatever its
    id) never sits in both training and test data. Of data that is labelled in part, examples without a label go to
    the first part, since they can only be learned from, but for those whose text sits in another part.

    Args:
        dataset: what to split; order is kept within the parts.
        shares: non-negative shares, at least one above 0; they are divided by their sum.
        names: one name for each share.
    """
    if len(shares) != len(names) or not shares or min(shares) < 0 or not sum(shares) > 0:
        raise ValueError(f"split={shares!r}: give {len(names)} shares >= 0 that are not all 0, such as (0.8, 0.1, 0.1)")
    ends = [sum(shares[: i + 1]) / sum(shares) for i in range(len(shares) - 1)]
    hashes = [text_hash(e.content) for e in dataset]
    places = [sum(h / 2**256 >= end for end in ends) for h in hashes]
    in_part = 0 < dataset.labelled < len(dataset)
    held_out = {h for e, h, place in zip(dataset, hashes, places, strict=True) if place and e.label is not None}
    parts: list[list[Example]] = [[] for _ in shares]
    for e, h, place in zip(dataset, hashes, places, strict=True):
        if in_part and e.label is None:
            if h in held_out:
                continue
            place = 0
        parts[place].append(e)
    return [Dataset(p, dataset.labels, f"{dataset.name}/{n}") for p, n in zip(parts, names, strict=True)]
