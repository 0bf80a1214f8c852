"""Folders of pictures: a folder for each class, and perhaps one for each split around them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdnative.data.images.decoding import SUFFIXES
from kdnative.data.types import DataError
from kdnative.shown import listed, shown

__all__ = ["SPLITS", "Found", "group_of", "read_folder"]

SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val"), "test": ("test", "testing")}


@dataclass(frozen=True)
class Found:
    """The files of a data set.

    Attributes:
        classes: names of the classes, sorted.
        files: {split: [(path below the folder, number of the class)]}; "all" where the folder has no splits.
        notes: for people: files that are no pictures.
    """

    classes: tuple[str, ...]
    files: dict[str, list[tuple[str, int]]]
    notes: tuple[str, ...]


def read_folder(folder: Path, classes: Sequence[str] | None = None) -> Found:
    """Lists the pictures of a folder; none is opened.

    Args:
        folder: has a folder for each class (pictures may lie deeper in it), or folders ``train`` and perhaps
            ``validation`` (``val``, ``valid``) and ``test`` with these.
        classes: only these; None: all that there are.

    Raises:
        DataError: no such folder, a class without a picture, fewer than two classes, or a split with other classes.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; give a folder with one subfolder of pictures per class")
    inside = {place.name: place for place in _folders(folder)}
    splits = {name: [inside[n] for n in names if n in inside] for name, names in SPLITS.items()}
    for places in splits.values():
        if len(places) > 1:
            raise DataError(f"{folder}: {places[0].name} and {places[1].name} are the same split; keep one")
    if not splits["train"]:
        if held := next((places[0].name for places in splits.values() if places), None):
            raise DataError(f"{folder}: there is a folder {held}, but no folder named train")
        splits = {"all": [folder]}
    names: tuple[str, ...] | None = None if classes is None else tuple(sorted(classes))
    files: dict[str, list[tuple[str, int]]] = {}
    skipped: list[str] = []
    for name, places in splits.items():
        if places:
            names, files[name] = _of_split(folder, places[0], names, skipped)
    note = (
        f"{folder}: {len(skipped):,} files are not pictures and are left out, such as {shown(skipped[0])}"
        if skipped
        else ""
    )
    return Found(names or (), files, (note,) if note else ())


def group_of(path: str, pattern: str | None) -> str:
    """What pictures that belong together have in common: what a pattern finds in the name; else the whole path."""
    if pattern is None:
        return path
    found = re.search(pattern, PurePosixPath(path).name)
    return path if found is None else (found.group(1) if found.re.groups else found.group()) or path


def _of_split(
    root: Path, place: Path, classes: tuple[str, ...] | None, skipped: list[str]
) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    folders = {found.name: found for found in _folders(place)}
    if classes is None and len(folders) < 2:
        loose = next((file.name for file in sorted(place.iterdir()) if file.suffix.lower() in SUFFIXES), None)
        lies = f"; pictures such as {loose} are not in a subfolder" if loose else ""
        raise DataError(
            f"{place}: it has {len(folders)} subfolders for classes, but at least 2 are needed{lies}. Give a "
            "folder with one subfolder of pictures per class"
        )
    if classes is not None and (absent := [name for name in classes if name not in folders]):
        raise DataError(
            f"{place}: there is no folder for the class {shown(absent[0])}; each of {listed(classes)} needs pictures "
            "in every split"
        )
    if classes is not None and place != root and (strange := sorted(folders.keys() - set(classes))):
        raise DataError(f"{place}: the training split has no class {shown(strange[0])}; it has {listed(classes)}")
    names = classes or tuple(sorted(folders))
    files: list[tuple[str, int]] = []
    for number, name in enumerate(names):
        own, links = _pictures(root, folders[name], skipped)
        if not own and links:
            raise DataError(
                f"{folders[name]}: its {links:,} pictures are links, which are skipped because they may be "
                "duplicates: replace them with the files"
            )
        if not own:
            raise DataError(
                f"{folders[name]}: a folder without pictures ({', '.join(SUFFIXES)}): add pictures, or remove "
                "the folder"
            )
        files += [(path, number) for path in own]
    return names, files


def _folders(place: Path) -> list[Path]:
    return sorted(found for found in place.iterdir() if found.is_dir() and not found.name.startswith("."))


def _pictures(root: Path, folder: Path, skipped: list[str]) -> tuple[list[str], int]:
    """Paths below the root, and how many links to pictures are passed over like hidden files.

    A link may be the same picture again.
    """
    found, links = [], 0
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        name, is_picture = path.relative_to(root).as_posix(), path.suffix.lower() in SUFFIXES
        if path.is_symlink():
            links += is_picture
        elif is_picture:
            found.append(name)
        else:
            skipped.append(name)
    return found, links
