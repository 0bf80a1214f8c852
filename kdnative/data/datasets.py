"""`load_dataset`: one form for every source of labelled texts and pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdnative.data.columns import DELIMITERS, Columns
from kdnative.data.hub import VALIDATION_NAMES, hub_splits
from kdnative.data.movies import movie_reviews
from kdnative.data.tables import SUFFIXES, check_empty, read_rows, to_dataset
from kdnative.data.transfer import add_texts, keep_labels
from kdnative.data.types import DataError, Dataset, DataSplits, by_hash, text_hash

__all__ = ["files_of", "load_dataset"]

NAMES = ("train", "validation", "test")
# Options that not every kind of source has, with their defaults.
DEFAULTS = {
    "text_column": "text",
    "text_pair_column": "text_pair",
    "label_column": "label",
    "validation": None,
    "test": None,
    "config": None,
    "revision": None,
    "unlabelled": "error",
    "delimiter": None,
}
# Those that a kind of source lacks, and why; the first prefix that fits is the kind, and files have none.
_SPLITS_OF_HUB = "a hub data set has its own splits, or they are cut by split="
_OF_HUB = "it selects a version of a hub data set (hub:NAME)"
LACKING = {
    "package:": dict.fromkeys(DEFAULTS, "its columns and splits are fixed"),
    "hub:": {"validation": _SPLITS_OF_HUB, "test": _SPLITS_OF_HUB, "delimiter": "only .csv and .tsv files have one"},
    "": {"config": _OF_HUB, "revision": _OF_HUB},
}


def load_dataset(
    spec: str | Path,
    *,
    text_column: str = "text",
    text_pair_column: str | None = None,
    label_column: str | None = "label",
    numbers: bool = False,
    unlabelled: str = "error",
    labelled: int | None = None,
    unlabelled_files: Sequence[str | Path] = (),
    validation: str | Path | None = None,
    test: str | Path | None = None,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
    limit: int | None = None,
    empty: str = "error",
    delimiter: str | None = None,
    config: str | None = None,
    revision: str | None = None,
) -> DataSplits:
    """Loads texts or pairs of texts with their labels (or, with ``label_column=None``, without).

    A training example whose text is in the validation or test split as well is left out; ``notes`` say how many were.

    Args:
        spec: one of
            ``"package:movie-reviews"``: sentences, positive or negative; their ratings; or pairs of them (see
            `movie_reviews`);
            ``"hub:NAME"``: a data set of the Hugging Face hub (needs the package `datasets`);
            a ``.csv``, ``.tsv`` or ``.jsonl`` file; a folder with ``train``, ``validation`` and ``test`` files of
            those kinds (all but ``train`` optional).
        text_column, text_pair_column, label_column: names of the columns, for files and the hub; without a second
            column of texts an example has one text.
        numbers: labels are targets (floats), not names of classes.
        unlabelled: "error" or "keep": rows without a label, in files and on the hub. They are for training: validation
            and test data must have all their labels.
        labelled: only this many training examples keep their label, each class in proportion, chosen by hash; the
            others stay as examples without one. None: all labels are kept.
        unlabelled_files: further texts to train on without a label: ``.txt`` with one text a line, or files with the
            columns of texts. Texts that are in a split already are left out.
        validation, test: files of their own for these splits, next to a training file; for files and folders.
        split: shares of train, validation and test where a split has to be cut from another one: by the hash of the
            text (or of both), so that it never changes and the same text never sits in two parts.
        limit: at most this many examples in each split and texts of each file of unlabelled ones (for quick runs),
            chosen by hash. Labels are taken away afterwards.
        empty: "error" or "drop": rows without text, in files and on the hub.
        delimiter: "comma", "semicolon" or "tab": of .csv and .tsv files, which then have double quotes around texts
            that hold one. None: commas in .csv files; tabs in .tsv files, without quotes.
        config, revision: of a hub data set.

    Raises:
        DataError: missing file or column, not UTF-8, malformed row, a single class, an empty split; in words, with
            file and line.
        ValueError: a spec that means nothing, an option that this kind of source does not have, or a number below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: at least 1, or None for all")
    if labelled is not None and labelled < 1:
        raise ValueError(f"labelled={labelled}: at least 1, or None for all labels")
    check_empty(empty)
    if unlabelled not in ("error", "keep"):
        raise ValueError(f'unlabelled={unlabelled!r}: allowed are "error" and "keep"')
    if delimiter is not None and delimiter not in DELIMITERS:
        raise ValueError(f"delimiter={delimiter!r}: allowed are {', '.join(DELIMITERS)}, or None")
    text = str(spec)
    given = {"text_column": text_column, "text_pair_column": text_pair_column or "text_pair"}
    given |= {"label_column": label_column, "validation": validation, "test": test}
    _check_options(
        text, {**given, "config": config, "revision": revision, "unlabelled": unlabelled, "delimiter": delimiter}
    )
    columns = Columns(text_column, text_pair_column, label_column, numbers, unlabelled == "keep", delimiter)
    if text.startswith("package:"):
        if text != "package:movie-reviews":
            raise ValueError(f'{text!r}: the only packaged data set is "package:movie-reviews"')
        found = movie_reviews(split, numbers=numbers, pairs=text_pair_column is not None)
    elif text.startswith("hub:"):
        found = hub_splits(text[4:], columns, config=config, revision=revision, split=split, empty=empty)
    elif text.startswith("imagefolder:"):
        raise ValueError(
            f"{text!r}: a data set of texts is needed; for pictures, use kdnative.data.images.load_images, or "
            "in a recipe task: image-classification, and give a folder without a prefix"
        )
    else:
        found = _from_files(Path(spec), columns, validation, test, split, empty)
    _check_labels(text, found, label_column is not None)
    found = _limited(_without_held_out_texts(found, text), limit)
    for name in NAMES:
        if not len(getattr(found, name)):
            raise DataError(f"{text}: the {name} split is empty; use more data, other shares (split=) or its own file")
    train = found.train
    if train.labels and train.labelled and sum(count > 0 for count in train.counts.values()) < 2:
        raise DataError(f"{text}: the training split has a single class: {train.counts}")
    if labelled is not None:
        found = replace(found, train=keep_labels(train, labelled, text))
    return add_texts(found, unlabelled_files, columns, empty, limit)


def _limited(found: DataSplits, limit: int | None) -> DataSplits:
    return DataSplits(*(getattr(found, name).head(limit) for name in NAMES), notes=found.notes)


def _without_held_out_texts(found: DataSplits, source: str) -> DataSplits:
    """Leaves out training examples whose text is in another split: it is to be new there."""
    train = found.train
    held_out = {text_hash(e.texts) for part in (found.validation, found.test) for e in part}
    kept = [e for e in train if text_hash(e.texts) not in held_out]
    if len(kept) == len(train):
        return found
    if not kept:
        raise DataError(
            f"{source}: every training text is also in the validation or test split: remove the texts from one of "
            "the splits"
        )
    note = (
        f"{len(train) - len(kept):,} of {len(train):,} training examples are left out: their texts are in the "
        "validation or test split"
    )
    return replace(found, train=Dataset(kept, train.labels, train.name), notes=(*found.notes, note))


def _check_labels(spec: str, found: DataSplits, wanted: bool) -> None:
    """Raises DataError where nothing could be learned, or measured, for want of labels."""
    if not wanted or not len(found.train):
        return
    if not found.train.labelled and (found.validation.labelled or found.test.labelled):
        raise DataError(f"{spec}: no example of the training split has a label; label some of them")
    for name in ("validation", "test"):
        part = getattr(found, name)
        if found.train.labelled and part.labelled < len(part):
            first = next(e.id for e in part if e.label is None)
            raise DataError(
                f"{spec}: {len(part) - part.labelled} of {len(part)} examples of the {name} split have no "
                f"label (the first is {first!r}); only training examples may lack a label"
            )
    targets = {e.label for e in found.test if isinstance(e.label, float)}
    if len(targets) == 1 and len(found.test) > 1:
        raise DataError(
            f"{spec}: all {len(found.test)} examples of the test split have the label {targets.pop()}, so "
            "nothing can be measured on it; give a test split with different labels, or no test split, and "
            "it is taken from the other data"
        )


def _check_options(spec: str, given: dict[str, Any]) -> None:
    """Raises ValueError where an option was set that this source would have to ignore."""
    kind = next(prefix for prefix in LACKING if spec.startswith(prefix))
    for name, reason in LACKING[kind].items():
        if given[name] != DEFAULTS[name]:
            key = name.removesuffix("_column")
            raise ValueError(
                f"{spec}: the option {name}={given[name]!r} (data.{key} in a recipe) does not apply to this source: "
                f"{reason}; leave it out"
            )


def _from_files(
    path: Path,
    columns: Columns,
    validation: str | Path | None,
    test: str | Path | None,
    split: tuple[float, float, float],
    empty: str,
) -> DataSplits:
    files = files_of(path)
    files["validation"] = Path(validation) if validation is not None else files["validation"]
    files["test"] = Path(test) if test is not None else files["test"]
    parts, labels = {}, None
    for name, file in files.items():
        if file is not None:
            parts[name] = to_dataset(read_rows(file, columns, empty), labels, name)
            labels = labels or parts[name].labels or None
    # Every part that has no file is cut from the training file, in the shares asked for.
    missing = [name for name in NAMES if name not in parts or name == "train"]
    shares = tuple(split[NAMES.index(name)] for name in missing)
    if len(missing) > 1:
        for part, name in zip(by_hash(parts["train"], shares, missing), missing, strict=True):
            parts[name] = part
    return DataSplits(*(parts[name] for name in NAMES))


def files_of(path: Path) -> dict[str, Path | None]:
    """{"train", "validation", "test": file} of a data file, or of a folder; None of a split that has none.

    Raises:
        DataError: a folder without a train file, or with two files for one split.
    """
    if not path.is_dir():
        return {"train": path, "validation": None, "test": None}
    files = {"train": _find(path, ("train",)), "validation": _find(path, VALIDATION_NAMES)}
    if files["train"] is None:
        raise DataError(f"{path}: the folder has no train file ({', '.join('train' + s for s in SUFFIXES)})")
    return {**files, "test": _find(path, ("test",))}


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    found = [folder / (name + suffix) for name in names for suffix in SUFFIXES if (folder / (name + suffix)).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder}: {found[0].name} and {found[1].name} are the same split; keep one")
    return found[0] if found else None
