"""`from_texts`: texts that are in memory already as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from kdnative.data.labels import label_name, label_number, label_order
from kdnative.data.types import LABEL, PAIR, TEXT, DataError, Dataset, Example
from kdnative.shown import listed, shown

__all__ = ["from_texts"]


def from_texts(
    texts: Sequence[str],
    labels: Sequence[str | int | float | None] | None = None,
    *,
    pairs: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    name: str = "texts",
) -> Dataset:
    """A data set of texts, for `tokenize`::

        data = tokenize(from_texts(["a fine film", "a dull one"], ["good", "bad"]), tokenizer)

    Args:
        texts: N texts, none of them empty.
        labels: N labels of one kind: names of classes (str or bool, "True" and "False"), numbers of classes (int) or
            targets (float); those of numpy, too. None is a text without a label; None for all of them: no text has one.
        pairs: N second texts, for tasks on pairs.
        label_names: the classes, in the order of the model's outputs. None: the names that occur, sorted (whole numbers
            by value), or "0" to the largest number.
        name: used in messages.

    Raises:
        DataError: lists of different lengths, an empty text, labels of several kinds, a class that `label_names` lacks,
            or a target that is not finite.
    """
    if isinstance(texts, str):
        raise DataError(f"{name}: a list of texts is needed, not one text")
    labels = [None] * len(texts) if labels is None else [_plain(label) for label in labels]
    columns = {TEXT: list(texts)} if pairs is None else {TEXT: list(texts), PAIR: list(pairs)}
    for given, values in (("labels", labels), *columns.items()):
        if len(values) != len(texts):
            raise DataError(f"{name}: {len(texts)} texts, but {len(values)} in {given}: one for each text is needed")
    for field, values in columns.items():
        for i, text in enumerate(values):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{name}: {field} {i} is {shown(text)}: a text that is not empty is needed")
    numbers, classes = _numbers(labels, label_names, name)
    rows = zip(*columns.values(), numbers, strict=True)
    fields = (*columns, LABEL)
    examples = [Example(dict(zip(fields, row, strict=True)), str(i)) for i, row in enumerate(rows)]
    return Dataset(examples, classes, name)


def _plain(label: Any) -> Any:
    """A label as Python's own str, int or float; of another kind as it is."""
    if isinstance(label, bool | np.bool_):
        return str(bool(label))
    if isinstance(label, Integral):
        return int(label)
    return float(label) if isinstance(label, Real) else label


def _numbers(
    labels: list[str | int | float | None], label_names: Sequence[str] | None, name: str
) -> tuple[list[int | float | None], tuple[str, ...]]:
    """The labels as a `Dataset` has them, and the names of its classes."""
    kinds = {str if isinstance(label, str) else type(label) for label in labels} - {type(None)}
    if len(kinds) > 1 or not kinds <= {str, int, float}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"{name}: labels are of {found}: give only str (names), int (classes) or float (targets)")
    kind = kinds.pop() if kinds else None
    if kind is float:
        if label_names is not None:
            raise DataError(
                f"{name}: label_names are for classes, but the labels are targets (float): leave label_names out"
            )
        return [None if y is None else label_number(y, "labels", f"{name}, {i}") for i, y in enumerate(labels)], ()
    if kind is int:
        count = 1 + max(label for label in labels if label is not None)
        return labels, tuple(map(str, range(count)) if label_names is None else label_names)
    words = [None if y is None else label_name(y, "labels", f"{name}, {i}") for i, y in enumerate(labels)]
    classes = tuple(
        sorted({w for w in words if w is not None}, key=label_order) if label_names is None else label_names
    )
    if missing := [w for w in words if w is not None and w not in classes]:
        raise DataError(f"{name}: the label {shown(missing[0])} is not in label_names ({listed(classes)})")
    number = {word: i for i, word in enumerate(classes)}
    return [None if word is None else number[word] for word in words], classes
