"""Data sets and models of the Hugging Face hub, through the packages `datasets` and `huggingface_hub`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from .types import DataError, Dataset, DataSplits, Example, by_hash

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
) -> DataSplits:
    """Loads ``datasets.load_dataset(name, config, revision=revision)`` and fills in the splits that it lacks.

    A missing validation split is cut from the training data by the hash of the text; a missing or unlabelled test
    split (labels -1, as in GLUE) is replaced by the validation data, and a new validation split is cut then.

    Raises:
        ImportError: `datasets` is not installed. DataError: missing split or column, empty text.
    """
    found = _import("datasets").load_dataset(name, config, revision=revision)
    return _from_mapping(f"hub:{name}", found, text_column, label_column, split)


def hub_model(name: str, revision: str | None = None) -> str:
    """Downloads a model's configuration, tokenizer and safetensors (never pickles) and returns the local folder."""
    if not name:
        raise ValueError('"hub:" needs a name, such as "hub:sentence-transformers/all-MiniLM-L6-v2"')
    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    return _import("huggingface_hub").snapshot_download(name, revision=revision, allow_patterns=patterns)


def _from_mapping(
    name: str, found: Mapping[str, Any], text_column: str, label_column: str | None, split: tuple[float, float, float]
) -> DataSplits:
    if "train" not in found:
        raise DataError(f"{name}: no split named 'train'; it has {', '.join(found)}")
    labels = _class_names(found["train"], label_column)
    parts = {"train": _convert(found["train"], f"{name}/train", text_column, label_column, labels)}
    for key in (*VALIDATION_NAMES, "test"):
        if key in found:
            part = _convert(found[key], f"{name}/{key}", text_column, label_column, labels)
            if len(part) and (part.labelled or not parts["train"].labelled):
                parts.setdefault("test" if key == "test" else "validation", part)
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    if "test" not in parts:
        return DataSplits(*by_hash(parts["train"], split, ("train", "validation", "test")))
    if "validation" not in parts:
        parts["train"], parts["validation"] = by_hash(parts["train"], split[:2], ("train", "validation"))
    return DataSplits(parts["train"], parts["validation"], parts["test"])


def _class_names(table: Any, label_column: str | None) -> tuple[str, ...]:
    if label_column is None:
        return ()
    if label_column not in table.column_names:
        return ()  # _convert complains with the columns there are
    names = getattr(table.features[label_column], "names", None)
    return tuple(names) if names else tuple(sorted({str(v) for v in table[label_column]}))


def _convert(table: Any, name: str, text_column: str, label_column: str | None, labels: tuple[str, ...]) -> Dataset:
    for column in (text_column, label_column):
        if column is not None and column not in table.column_names:
            raise DataError(
                f"{name}: no column {column!r}; it has {', '.join(table.column_names)}. "
                "Name the right ones with text_column= and label_column="
            )
    texts = list(table[text_column])
    blank = next((i for i, t in enumerate(texts) if not isinstance(t, str) or not t.strip()), None)
    if blank is not None:
        raise DataError(f"{name}, row {blank}: {text_column!r} is not a text: {texts[blank]!r}")
    if label_column is None:
        return Dataset([Example(t, None, str(i)) for i, t in enumerate(texts)], (), name)
    values = list(table[label_column])
    numbered = getattr(table.features[label_column], "names", None) is not None
    if numbered and all(v == -1 for v in values):  # published without labels
        return Dataset([Example(t, None, str(i)) for i, t in enumerate(texts)], labels, name)
    number = {label: i for i, label in enumerate(labels)}
    examples = []
    for i, (text, value) in enumerate(zip(texts, values, strict=True)):
        label = value if numbered else number.get(str(value))
        if not isinstance(label, int) or not 0 <= label < len(labels):
            raise DataError(f"{name}, row {i}: the label {value!r} is none of the training data's: {', '.join(labels)}")
        examples.append(Example(text, label, str(i)))
    return Dataset(examples, labels, name)


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"hub: names need the package {module!r}: pip install {module}") from error
