"""Which files a recipe reads: those of a folder need labels, or become texts without."""

from __future__ import annotations

from pathlib import Path

from kdnative.data.columns import is_missing
from kdnative.data.datasets import files_of
from kdnative.data.sniff import read_sheet
from kdnative.data.transfer import TEXT_SUFFIXES

__all__ = ["Sources", "find_sources"]

_HEAD = 2**20  # bytes of a file that show whether its rows have labels


class Sources:
    """The files of a recipe.

    Attributes:
        source: of the recipe: a file, or a folder all of whose splits have labels.
        parts: {"validation", "test": file} to name beside `source`; empty for a folder that is named itself.
        cut: the splits that have no file and are cut from the training file.
        unlabelled: files of texts without labels.
    """

    def __init__(self, source: Path, parts: dict[str, Path], cut: list[str], unlabelled: list[Path]) -> None:
        self.source, self.parts, self.cut, self.unlabelled = source, parts, cut, unlabelled


def find_sources(data: Path, label: str, unsure: list[str]) -> Sources:
    """The files for a data file or folder.

    Args:
        data: the file, or a folder with a train file.
        label: the column of the labels.
        unsure: gets a sentence for each split without labels.

    Raises:
        DataError: a file can't be read.
    """
    files = files_of(data)
    train = files.pop("train")
    given = {name: file for name, file in files.items() if file is not None}
    without = {name: file for name, file in given.items() if not _has_labels(file, label)}
    for name, file in without.items():
        unsure.append(
            f"{file} has no labels, so the {name} split is taken from {train}; its texts are used for training"
        )
    cut = [name for name in files if name not in given or name in without]
    further = [data / f"unlabelled{suffix}" for suffix in TEXT_SUFFIXES] if data.is_dir() else []
    unlabelled = [*without.values(), *(file for file in further if file.is_file())]
    if not without:
        return Sources(data, {}, cut, unlabelled)
    return Sources(train, {name: file for name, file in given.items() if name not in without}, cut, unlabelled)


def _has_labels(file: Path, label: str) -> bool:
    values = read_sheet(file, _HEAD).columns.get(label, ())
    return not all(is_missing(value) for value in values)
