"""Data sets and models of the Hugging Face hub, through the packages `datasets` and `huggingface_hub`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdnative.data.labels import label_name, label_order
from kdnative.data.types import DataError, Dataset, DataSplits, Example, by_hash
from kdnative.extras import require

__all__ = ["hub_model", "hub_splits"]

VALIDATION_NAMES = ("validation", "valid", "dev", "val")


def hub_splits(
    name: str,
    text_column: str = "text",
    label_column: str | None = "label",
    *,
    config: str | None = None,
    revision: str | None = None,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
    empty: str = "error",
) -> DataSplits:
    """Loads ``datasets.load_dataset(name, config, revision=revision)`` and fills in the splits that it lacks.

    A missing validation split is cut from the training data by the hash of the text; a missing or unlabelled test
    split (labels -1, as in GLUE) is replaced by the validation data, and a new validation split is cut then.
    Classes keep the order in which the data set declares them (`ClassLabel`); undeclared ones have that of files.

    Raises:
        ImportError: `datasets` is not installed. DataError: missing split or column, empty text (unless ``empty`` is
        "drop"), a label that is missing or neither string, integer nor boolean.
    """
    found = require("datasets", "a hub: name").load_dataset(name, config, revision=revision)
    return _from_mapping(f"hub:{name}", found, text_column, label_column, split, empty)


def hub_model(name: str, revision: str | None = None) -> str:
    """Downloads a model's configuration, tokenizer and safetensors (never pickles) and returns the local folder."""
    if not name:
        raise ValueError('"hub:" needs a name, such as "hub:sentence-transformers/all-MiniLM-L6-v2"')
    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    return require("huggingface_hub", "a hub: name").snapshot_download(name, revision=revision, allow_patterns=patterns)


def _from_mapping(
    name: str,
    found: Mapping[str, Any],
    text_column: str,
    label_column: str | None,
    split: tuple[float, float, float],
    empty: str,
) -> DataSplits:
    if "train" not in found:
        raise DataError(f"{name}: no split named 'train'; it has {', '.join(found)}")
    rows = _rows(found["train"], f"{name}/train", text_column, label_column, empty)
    labels = _class_names(found["train"], f"{name}/train", label_column, rows)
    parts = {"train": _convert(found["train"], f"{name}/train", label_column, labels, rows)}
    for key in (*VALIDATION_NAMES, "test"):
        if key in found:
            rows = _rows(found[key], f"{name}/{key}", text_column, label_column, empty)
            part = _convert(found[key], f"{name}/{key}", label_column, labels, rows)
            if len(part) and (part.labelled or not parts["train"].labelled):
                parts.setdefault("test" if key == "test" else "validation", part)
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    if "test" not in parts:
        return DataSplits(*by_hash(parts["train"], split, ("train", "validation", "test")))
    if "validation" not in parts:
        parts["train"], parts["validation"] = by_hash(parts["train"], split[:2], ("train", "validation"))
    return DataSplits(parts["train"], parts["validation"], parts["test"])


def _rows(table: Any, name: str, text_column: str, label_column: str | None, empty: str) -> list[tuple[int, str, Any]]:
    """(row number, text, label as it is) of the rows that have a text."""
    for column in (text_column, label_column):
        if column is not None and column not in table.column_names:
            raise DataError(
                f"{name}: no column {column!r}; it has {', '.join(table.column_names)}. "
                "Name the right ones: text_column= and label_column=, in a recipe data.text and data.label"
            )
    texts = list(table[text_column])
    labels = [None] * len(texts) if label_column is None else list(table[label_column])
    rows = []
    for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
        blank = text is None or (isinstance(text, str) and not text.strip())
        if blank and empty == "drop":
            continue
        if blank or not isinstance(text, str):
            advice = '; repair it or pass empty="drop" (in a recipe data.empty: drop)' if blank else ""
            raise DataError(f"{name}, row {i}: {text_column!r} is not a text: {text!r}{advice}")
        rows.append((i, text, label))
    return rows


def _declared(table: Any, label_column: str) -> tuple[str, ...] | None:
    """The classes of a `ClassLabel` column, whose values are their positions; None for any other column."""
    names = getattr(table.features[label_column], "names", None)
    return tuple(names) if names else None


def _class_names(table: Any, name: str, label_column: str | None, rows: list[tuple[int, str, Any]]) -> tuple[str, ...]:
    if label_column is None:
        return ()
    declared = _declared(table, label_column)
    if declared is not None:
        return declared
    found = {label_name(label, label_column, f"{name}, row {i}") for i, _, label in rows}
    return tuple(sorted(found, key=label_order))


def _convert(
    table: Any, name: str, label_column: str | None, labels: tuple[str, ...], rows: list[tuple[int, str, Any]]
) -> Dataset:
    numbered = label_column is not None and _declared(table, label_column) is not None
    if label_column is None or (numbered and all(label == -1 for *_, label in rows)):  # published without labels
        return Dataset([Example(text, None, str(i)) for i, text, _ in rows], labels, name)
    number = {label: i for i, label in enumerate(labels)}
    examples = []
    for i, text, value in rows:
        label = value if numbered else number.get(label_name(value, label_column, f"{name}, row {i}"))
        if not isinstance(label, int) or not 0 <= label < len(labels):
            raise DataError(f"{name}, row {i}: the label {value!r} is none of the training data's: {', '.join(labels)}")
        examples.append(Example(text, label, str(i)))
    return Dataset(examples, labels, name)
