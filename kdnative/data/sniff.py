"""What a file of unknown columns holds: how its columns are separated, and their values."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdnative.data.tables import SUFFIXES, check_file, decode, delimited
from kdnative.data.types import DataError
from kdnative.shown import shown

__all__ = ["Sheet", "read_sheet"]

LOOKED_AT = 64 * 2**20  # bytes of a file; what follows is only counted
MOST_ROWS = 500_000
PROBED = 2000  # rows that a delimiter has to fit
# First bytes of files that people call tables; all of them begin with no text.
MAGIC = {
    b"PK\x03\x04": "an Excel file or another zip file",
    b"PAR1": "a Parquet file",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
    b"\x1f\x8b": "a gzip file",
    b"ARROW1": "an Arrow file",
    b"SQLite": "an SQLite database",
}
KINDS = {
    ".parquet": "Parquet",
    ".xlsx": "Excel",
    ".xls": "Excel",
    ".json": "JSON",
    ".txt": "text",
    ".gz": "gzip",
    ".zip": "zip",
}


@dataclass(frozen=True)
class Sheet:
    """The columns of a file, or of its first part.

    Attributes:
        path: the file.
        columns: {name: values}, in the file's order. A value is a string; of .jsonl, whatever JSON has; None where a
            .jsonl row lacks the key.
        delimiter: what `load_dataset` needs as ``delimiter=`` to read the file like this.
        lines: the line at which each row begins.
        repeated: names that several columns have, which none of `columns` is.
        share: the part of the file that was looked at, from 0 to 1.
    """

    path: Path
    columns: dict[str, list[Any]]
    delimiter: str | None
    lines: list[int]
    repeated: tuple[str, ...]
    share: float

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def complete(self) -> bool:
        return self.share == 1.0

    @property
    def rows(self) -> int:
        """Rows of the whole file; estimated from the bytes where only a part was looked at."""
        return len(self) if self.complete else round(len(self) / self.share)


def read_sheet(path: str | Path, most: int | None = None) -> Sheet:
    """Reads the first part of a .csv, .tsv or .jsonl file.

    Args:
        path: the file.
        most: bytes to look at; None: `LOOKED_AT`.

    Raises:
        DataError: no such file, another kind of file, not UTF-8, no header, no rows, or a row of another length than
            the header; in words, with the line.
    """
    path, most = Path(path), LOOKED_AT if most is None else most
    check_file(path)
    _check_kind(path)
    with open(path, "rb") as file:
        data = file.read(most + 1)
    size = path.stat().st_size
    if len(data) > most:  # the last line may be cut, and with it a character
        data = data[: data.rfind(b"\n", 0, most) + 1]
        if not data:
            raise DataError(f"{path}: no line end within {most:,} bytes; check that the file is a table")
    text = decode(path, data)
    cut = len(data) < size
    delimiter, repeated = None, ()
    if path.suffix.lower() == ".jsonl":
        lines = Counted(text, "\n")
        columns, starts = _json_rows(path, lines)
    else:
        lines = Counted(text, "")
        delimiter = _delimiter(path, text)
        columns, starts, repeated = _delimited_rows(path, lines, delimiter, cut)
    if not starts:
        raise DataError(f"{path}: the file has a header, but no rows" if columns else f"{path}: the file is empty")
    return Sheet(path, columns, delimiter, starts, repeated, len(data) / size * lines.share)


class Counted:
    """The lines of a text, and which share of it was taken so far."""

    def __init__(self, text: str, ends: str) -> None:
        """`ends`: of lines, as `io.StringIO` understands it: "" knows them all, "\\n" this one alone."""
        self.text, self.ends, self.taken = text, ends, 0

    def __iter__(self) -> Iterator[str]:
        for line in io.StringIO(self.text, newline=self.ends):
            self.taken += len(line)
            yield line

    @property
    def share(self) -> float:
        return self.taken / len(self.text) if self.text else 1.0


def _check_kind(path: Path) -> None:
    with open(path, "rb") as file:
        start = file.read(8)
    cure = "export it as .csv (with a header, UTF-8)"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: the file is UTF-16; save it as UTF-8 (for example: iconv -f utf-16 -t utf-8)")
    for magic, kind in MAGIC.items():
        if start.startswith(magic):
            raise DataError(f"{path}: this is {kind}, not a table of text: {cure}")
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return
    if suffix == ".txt":
        raise DataError(
            f"{path}: lines of text have no labels; give a file with labels: .csv or .tsv with a header such "
            "as text,label, or .jsonl"
        )
    if suffix == ".json":
        raise DataError(f"{path}: write one JSON object per line, and name the file .jsonl")
    kind = f"a file of the kind {KINDS[suffix]}" if suffix in KINDS else f"unknown kind of file {suffix!r}"
    raise DataError(f"{path}: {kind}; allowed are {', '.join(SUFFIXES)}: {cure}")


def _delimiter(path: Path, text: str) -> str | None:
    """The delimiter to name, None for the one that the suffix stands for.

    The first that gives every row as many columns as the header, two or more; where none does, the one that most rows
    agree with, so that the error names the row that does not.
    """
    usual = None
    others = ["semicolon", "tab"] if path.suffix.lower() == ".csv" else ["tab", "comma", "semicolon"]
    agreeing = {name: _agreeing(path, text, name) for name in (usual, *others)}
    if path.suffix.lower() == ".tsv" and text.startswith('"') and agreeing["tab"] >= agreeing[usual]:
        return "tab"  # quotes around names are no part of them
    return max(agreeing, key=lambda name: agreeing[name])  # the first of equals: the usual one


def _agreeing(path: Path, text: str, delimiter: str | None) -> float:
    """The share of rows with as many columns as the header; 0 where that has one column."""
    found = total = 0
    header = None
    try:
        for fields in delimited(iter(Counted(text, "")), path, delimiter):
            if not fields:
                continue
            if header is None:
                header = fields
                continue
            found, total = found + (len(fields) == len(header)), total + 1
            if total == PROBED:
                break
    except csv.Error:
        total += 1
    if header is None or len(header) < 2:
        return 0.0
    return found / total if total else 0.5


def _delimited_rows(
    path: Path, lines: Counted, delimiter: str | None, cut: bool
) -> tuple[dict[str, list[Any]], list[int], tuple[str, ...]]:
    reader = delimited(iter(lines), path, delimiter)
    header: list[str] | None = None
    rows: list[list[str]] = []
    starts: list[int] = []
    line = 1
    try:
        for fields in reader:
            first, line = line, reader.line_num + 1
            if not fields:
                continue
            if header is None:
                header = fields
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{path}, line {first}: {len(fields)} columns, but the header has {len(header)}; put "
                    "double quotes around texts that contain the delimiter, and add a header above the first "
                    "row"
                )
            rows.append(fields)
            starts.append(first)
            if len(rows) == MOST_ROWS:
                break
    except csv.Error as error:
        if not cut:  # else a quoted text may go on where we stopped to look
            raise DataError(
                f"{path}, line {line}: {error}: a double quote is not closed, or not doubled inside a quoted text"
            ) from error
    if header is None:
        return {}, [], ()
    counts = Counter(header)
    repeated = tuple(name for name, count in counts.items() if count > 1)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header) if counts[name] == 1}
    return columns, starts, repeated


def _json_rows(path: Path, lines: Iterable[str]) -> tuple[dict[str, list[Any]], list[int]]:
    records: list[dict[str, Any]] = []
    starts: list[int] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            cure = "every line must be one JSON object"
            raise DataError(f"{path}, line {number}: not JSON: {shown(line.strip())}; {cure}") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: a {type(record).__name__}, but every line must be a JSON object")
        records.append(record)
        starts.append(number)
        if len(records) == MOST_ROWS:
            break
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}, starts
