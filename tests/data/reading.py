"""One file as a data set: `load_dataset` would want other texts for validation and test."""

from __future__ import annotations

from pathlib import Path

from kdnative.data import Dataset
from kdnative.data.columns import Columns
from kdnative.data.tables import read_rows, to_dataset


def read(path: Path, columns: Columns | None = None, empty: str = "error") -> Dataset:
    return to_dataset(read_rows(path, columns or Columns(), empty), None, "train")
