"""Reading local .csv, .tsv and .jsonl files; every complaint names the file and the line."""

from __future__ import annotations

import csv
import ctypes
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from kdnative.data.columns import DELIMITERS, Columns
from kdnative.data.labels import label_order
from kdnative.data.types import LABEL, DataError, Dataset, Example, KindError
from kdnative.machine.memory import machine_memory
from kdnative.shown import listed, shown

__all__ = [
    "SUFFIXES",
    "Row",
    "check_empty",
    "check_file",
    "check_name",
    "decode",
    "delimited",
    "read_rows",
    "to_dataset",
]

SUFFIXES = (".csv", ".tsv", ".jsonl")
# The csv module refuses fields of more than 131,072 characters unless told otherwise; its limit is a C long.
LONGEST_FIELD = 2 ** (8 * ctypes.sizeof(ctypes.c_long) - 1) - 1
LONGEST_TEXT = 10_000_000  # characters; a tokenizer takes many times as many bytes
LARGEST_FILE = 0.25  # of the machine's memory


class Row(NamedTuple):
    """One row of a file: its texts by field, its label as it is written (None without one), where it was found."""

    texts: dict[str, str]
    label: str | float | None
    file: str
    line: int

    @property
    def blank(self) -> bool:
        """Whether one of its texts is empty."""
        return not all(text.strip() for text in self.texts.values())


def read_rows(path: str | Path, columns: Columns, empty: str = "error") -> list[Row]:
    """Reads one file.

    ``.csv`` has a header, commas and double quotes (RFC 4180). ``.tsv`` has a header, tabs and no quoting: quotes are
    part of the text. With a ``columns.delimiter``, both have that one and double quotes. ``.jsonl`` has one JSON object
    a line; labels of classes may be strings, integers or booleans. A key that a row lacks is a missing label or an
    empty text where these are allowed. UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        columns: which ones to read.
        empty: "error" or "drop": what to do with rows whose text is empty, white space or (in .jsonl) null.

    Raises:
        DataError: missing file, a pipe or device, unknown suffix, text that is not UTF-8, a missing column, a malformed
            row, a text of more than ten million characters, a file that memory can't hold.
    """
    path = Path(path)
    check_empty(empty)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; allowed are {', '.join(SUFFIXES)}")
    check_file(path)
    text = decode(path, path.read_bytes())
    if path.suffix.lower() == ".jsonl":
        if columns.delimiter is not None:
            raise DataError(f"{path}: a .jsonl file has no delimiter; leave data.delimiter out")
        rows = _read_json_lines(path, text, columns, empty)
    else:
        rows = _read_delimited(path, text, columns)
    blank = [r for r in rows if r.blank]
    if blank and empty == "error":
        raise DataError(
            f"{path}, line {blank[0].line}: the text is empty ({len(blank)} such rows); "
            'repair them or pass empty="drop" (in a recipe data.empty: drop)'
        )
    rows = [r for r in rows if not r.blank] if blank else rows
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def check_file(path: Path) -> None:
    """Raises DataError unless it is a file that memory can hold."""
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file")
    if not os.path.isfile(path):  # a pipe or a device may never end
        raise DataError(f"{path}: a file is needed, but this is a folder, a pipe or a device")
    size, memory = os.path.getsize(path), machine_memory()
    if memory is not None and size > memory * LARGEST_FILE:
        raise DataError(
            f"{path}: {size / 1e9:,.1f} GB are too much for a machine with {memory / 1e9:,.1f} GB of memory, "
            "because reading holds several copies of the texts: give a part of the file"
        )


def check_empty(empty: str) -> None:
    """Raises ValueError unless `empty` is a known way to treat rows without text."""
    if empty not in ("error", "drop"):
        raise ValueError(f'empty={empty!r}: allowed are "error" and "drop"')


def to_dataset(rows: list[Row], labels: tuple[str, ...] | None, name: str) -> Dataset:
    """Rows -> Dataset. `labels` None: the classes are the labels found (numbers in numerical order, else sorted)."""
    classes = {r.label for r in rows if isinstance(r.label, str)}
    if not classes:
        return Dataset([_example(r, r.label, name) for r in rows], labels or (), name)
    found = sorted(classes, key=label_order)
    if labels is None and len(found) < 2:
        raise DataError(f"{rows[0].file}: every row has the label {shown(found[0])}; at least two classes are needed")
    labels = tuple(found) if labels is None else labels
    number: dict[Any, int | None] = {None: None, **{label: i for i, label in enumerate(labels)}}
    for r in rows:
        if r.label not in number:
            raise DataError(
                f"{r.file}, line {r.line}: the label {shown(r.label)} does not occur in the training data "
                f"({listed(labels)})"
            )
    return Dataset([_example(r, number[r.label], name) for r in rows], labels, name)


def _example(row: Row, label: int | float | None, name: str) -> Example:
    return Example({**row.texts, LABEL: label}, f"{name}:{row.line}")


def decode(path: Path, data: bytes) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        DataError: not UTF-8, or a NUL character; with the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8 "
            f"(for example: iconv -f latin1 -t utf-8)"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}, line {line}: a NUL character; the file may be UTF-16 or not text: save it as UTF-8")
    return text


def _read_delimited(path: Path, text: str, columns: Columns) -> list[Row]:
    reader = delimited(io.StringIO(text, newline=""), path, columns.delimiter)
    rows, header, line = [], None, 1
    try:
        for fields in reader:
            first, line = line, reader.line_num + 1  # a quoted field may span lines: name the one where it starts
            if not fields:
                continue
            if header is None:
                header = fields
                _check_columns(path, header, columns)
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{path}, line {first}: {len(fields)} columns, but the header has {len(header)}; put "
                    "double quotes around texts that contain the delimiter (in .tsv files with "
                    "data.delimiter: tab)"
                )
            values = dict(zip(header, fields, strict=True))
            texts = {field: values[column] for field, column in columns.texts.items()}
            rows.append(_row(texts, values.get(columns.label), columns, path, first))
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: {error}") from error
    return rows


def delimited(lines: Iterable[str], path: Path, delimiter: str | None) -> Any:
    """A reader (of the module csv) for the lines of a .csv or .tsv file."""
    csv.field_size_limit(LONGEST_FIELD)  # of the whole process, and never lowered again: that could hit another thread
    if delimiter is None and path.suffix.lower() == ".tsv":
        return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=DELIMITERS[delimiter or "comma"], strict=True)


def check_name(path: Path, name: str) -> None:
    """Raises DataError for the name of a column that goes on in another line."""
    if len(name.splitlines()) > 1:
        raise DataError(
            f"{path}: the name of the column {shown(name)} contains a line break: put all names on one line, "
            "and close the double quotes around each"
        )


def _check_columns(path: Path, header: list[str], columns: Columns) -> None:
    for column in columns.all:
        check_name(path, column)
        if header.count(column) != 1:
            problem = "occurs more than once" if column in header else "is missing"
            raise DataError(
                f"{path}, line 1: the column {shown(column)} {problem}; the header has {listed(header)}. Name "
                f"the right columns: {columns.options}"
            )


def _read_json_lines(path: Path, text: str, columns: Columns, empty: str) -> list[Row]:
    rows = []
    needed = [*(() if empty == "drop" else columns.texts.values()), *(() if columns.unlabelled else (columns.label,))]
    needed = [column for column in needed if column is not None]
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})") from error
        except RecursionError as error:
            raise DataError(f"{path}, line {number}: lists and objects are nested too deep") from error
        except ValueError as error:  # Python reads no whole number of more than some thousand digits
            raise DataError(f"{path}, line {number}: not JSON that can be read ({error})") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: a {type(record).__name__}, but every line must be a JSON object")
        for column in needed:
            if column not in record:
                raise DataError(
                    f"{path}, line {number}: no {shown(column)}; the object has {listed(record) or 'nothing'}"
                    f"; {_other_columns(record, columns)}"
                )
        texts = {field: _words(record.get(column), column, path, number) for field, column in columns.texts.items()}
        rows.append(_row(texts, record.get(columns.label), columns, path, number))
    return rows


def _other_columns(record: dict[str, Any], columns: Columns) -> str:
    if {"question", "context"} <= set(record):
        return "recipes have no task for question answering"
    return f"name the right columns: {columns.options}"


def _words(value: Any, column: str, path: Path, line: int) -> str:
    """A text of a JSON object; null is an empty one."""
    words = "" if value is None else value
    if not isinstance(words, str):
        raise KindError(f"{path}, line {line}: {shown(column)} is not a string, but {shown(value)}")
    if not _is_unicode(words):
        raise DataError(f"{path}, line {line}: {shown(column)} holds half a character (a lone surrogate)")
    return words


def _is_unicode(text: str) -> bool:
    """Whether no tokenizer stumbles over it: JSON can spell halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _row(texts: dict[str, str], label: Any, columns: Columns, path: Path, line: int) -> Row:
    longest = max(map(len, texts.values()))
    if longest > LONGEST_TEXT:
        raise DataError(f"{path}, line {line}: a text of {longest:,} characters; at most {LONGEST_TEXT:,}: cut it")
    row = Row(texts, None, str(path), line)
    if row.blank:  # `read_rows` drops or refuses it, whatever its label
        return row
    return row._replace(label=columns.target(label, f"{path}, line {line}"))
