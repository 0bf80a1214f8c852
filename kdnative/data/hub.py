"""Data sets and models of the Hugging Face hub, through the packages `datasets` and `huggingface_hub`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdnative.data.columns import Columns
from kdnative.data.labels import label_order
from kdnative.data.types import LABEL, DataError, Dataset, DataSplits, Example, by_hash
from kdnative.extras import require

__all__ = ["hub_commit", "hub_model", "hub_splits"]

VALIDATION_NAMES = ("validation", "valid", "dev", "val")


def hub_splits(
    name: str,
    columns: Columns,
    *,
    config: str | None = None,
    revision: str | None = None,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
    empty: str = "error",
) -> DataSplits:
    """Loads ``datasets.load_dataset(name, config, revision=revision)`` and fills in the splits that it lacks.

    A missing validation split is cut from the training data by the hash of the text; a missing or unlabelled test
    split (all labels -1, as in GLUE; targets may also all be missing) is replaced by the validation data, and a new
    validation split is cut then. Classes keep the order in which the data set declares them (`ClassLabel`);
    undeclared ones have that of files.

    Raises:
        ImportError: `datasets` is not installed. DataError: missing split or column, empty text (unless ``empty`` is
        "drop"), a label that is missing or neither string, integer nor boolean.
    """
    found = require("datasets", "a hub: name").load_dataset(name, config, revision=revision)
    return _from_mapping(f"hub:{name}", found, columns, split, empty)


def hub_model(name: str, revision: str | None = None) -> str:
    """Downloads a model's configuration, tokenizer and safetensors (never pickles) and returns the local folder."""
    if not name:
        raise ValueError('"hub:" needs a name, such as "hub:sentence-transformers/all-MiniLM-L6-v2"')
    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    return require("huggingface_hub", "a hub: name").snapshot_download(name, revision=revision, allow_patterns=patterns)


def hub_commit(name: str) -> str | None:
    """The commit of the copy of a model that is here; None where there is none. Asks nobody."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, local_files_only=True)).name
    except (ImportError, OSError, ValueError):
        return None


def _from_mapping(
    name: str,
    found: Mapping[str, Any],
    columns: Columns,
    split: tuple[float, float, float],
    empty: str,
) -> DataSplits:
    if "train" not in found:
        raise DataError(f"{name}: no split named 'train'; it has {', '.join(found)}")
    rows = _rows(found["train"], f"{name}/train", columns, empty)
    labels = _class_names(found["train"], f"{name}/train", columns, rows)
    parts = {"train": _convert(found["train"], f"{name}/train", columns, labels, rows)}
    for key in (*VALIDATION_NAMES, "test"):
        if key in found:
            rows = _rows(found[key], f"{name}/{key}", columns, empty)
            if columns.numbers and parts["train"].labelled and all(label in (None, -1) for *_, label in rows):
                continue  # published without labels
            part = _convert(found[key], f"{name}/{key}", columns, labels, rows)
            if len(part) and (part.labelled or not parts["train"].labelled):
                parts.setdefault("test" if key == "test" else "validation", part)
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    if "test" not in parts:
        return DataSplits(*by_hash(parts["train"], split, ("train", "validation", "test")))
    if "validation" not in parts:
        parts["train"], parts["validation"] = by_hash(parts["train"], split[:2], ("train", "validation"))
    return DataSplits(parts["train"], parts["validation"], parts["test"])


HubRow = tuple[int, dict[str, str], Any]
"""Row number, texts by field, and the label as it is."""


def _rows(table: Any, name: str, columns: Columns, empty: str) -> list[HubRow]:
    """The rows that have all their texts."""
    for column in columns.all:
        if column not in table.column_names:
            raise DataError(
                f"{name}: no column {column!r}; it has {', '.join(table.column_names)}. Name the right "
                f"columns: {columns.options}"
            )
    texts = zip(*(list(table[column]) for column in columns.texts.values()), strict=True)
    labels = [None] * len(table[columns.text]) if columns.label is None else list(table[columns.label])
    rows = []
    for i, (words, label) in enumerate(zip(texts, labels, strict=True)):
        row = dict(zip(columns.texts, words, strict=True))
        bad = {field: text for field, text in row.items() if not isinstance(text, str) or not text.strip()}
        blank = [field for field, text in bad.items() if text is None or isinstance(text, str)]
        if len(blank) < len(bad) or (bad and empty != "drop"):
            field = next(field for field in bad if field not in blank) if len(blank) < len(bad) else blank[0]
            advice = '; repair it or pass empty="drop" (in a recipe data.empty: drop)' if field in blank else ""
            raise DataError(f"{name}, row {i}: {columns.texts[field]!r} is not a text: {row[field]!r}{advice}")
        if not bad:
            rows.append((i, row, label))
    return rows


def _declared(table: Any, columns: Columns) -> tuple[str, ...] | None:
    """The classes of a `ClassLabel` column, whose values are their positions; None for any other column."""
    names = None if columns.label is None else getattr(table.features[columns.label], "names", None)
    return tuple(names) if names else None


def _class_names(table: Any, name: str, columns: Columns, rows: list[HubRow]) -> tuple[str, ...]:
    if columns.label is None or columns.numbers:
        return ()
    declared = _declared(table, columns)
    if declared is not None:
        return declared
    found = {columns.target(label, f"{name}, row {i}") for i, _, label in rows} - {None}
    return tuple(sorted(found, key=label_order))


def _convert(table: Any, name: str, columns: Columns, labels: tuple[str, ...], rows: list[HubRow]) -> Dataset:
    numbered = not columns.numbers and _declared(table, columns) is not None
    if columns.label is None or (numbered and all(label == -1 for *_, label in rows)):  # published without labels
        return Dataset([Example({**texts, LABEL: None}, str(i)) for i, texts, _ in rows], labels, name)
    examples = []
    for i, texts, value in rows:
        label = _label(value, numbered, labels, columns, f"{name}, row {i}")
        examples.append(Example({**texts, LABEL: label}, str(i)))
    return Dataset(examples, labels, name)


def _label(value: Any, numbered: bool, labels: tuple[str, ...], columns: Columns, where: str) -> int | float | None:
    if numbered:
        label = None if columns.unlabelled and value in (None, -1) else value
    else:
        label = columns.target(value, where)
        if isinstance(label, str):
            label = labels.index(label) if label in labels else -1
    known = label is None or columns.numbers or (isinstance(label, int) and 0 <= label < len(labels))
    if not known or (label is None and not columns.unlabelled):
        raise DataError(
            f"{where}: the label {value!r} does not occur in the training data, which has {', '.join(labels)}"
        )
    return label
