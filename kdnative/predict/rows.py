"""The rows of a request, one at a time, from arguments, standard input, a file or a folder of pictures."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kdnative.extras import how_to_get
from kdnative.predict.request import Request
from kdnative.shown import listed, shown

__all__ = ["Rejected", "Row", "arrow", "read_rows"]

Row = tuple[dict[str, Any], str]  # values by column, and where they were found


@dataclass
class Rejected:
    """What happens to rows that can't be read: ValueError, or with `skip` they are counted and left out."""

    skip: bool = False
    rows: int = 0

    def __call__(self, problem: str) -> None:
        if not self.skip:
            raise ValueError(f"{problem}; repair it, or leave such rows out with --skip-bad")
        self.rows += 1


def read_rows(request: Request, names: Sequence[str], rejected: Rejected, *, pictures: bool = False) -> Iterator[Row]:
    """The rows of a request, one at a time, each with a text in every column of `names`.

    Raises:
        ValueError: a row or a whole file can't be read; with the line, or the number of the row.
    """
    for values, where in _raw_rows(request, names, rejected, pictures):
        if (problem := _problem(values, names)) is None:
            yield values, where
        else:
            rejected(f"{where}: {problem}")


def _problem(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    for name in names:
        text = values.get(name)
        if not isinstance(text, str):
            if name not in values:
                return f"no {shown(name)}; it has {listed(values) or 'nothing'} (--column names another)"
            return f"{shown(name)} is null" if text is None else f"{shown(name)} is no text, but {shown(text)}"
        if not text or text.isspace():
            return "the text is empty" if len(names) == 1 else f"{shown(name)} is empty"
        try:
            text.encode()
        except UnicodeEncodeError:
            return f"{shown(name)} holds half a character (a lone surrogate)"
    return None


def _raw_rows(request: Request, names: Sequence[str], rejected: Rejected, pictures: bool) -> Iterator[Row]:
    if request.input is None and not request.from_stdin:
        pair = {} if request.text_pair is None else {names[1]: request.text_pair}
        if pictures:
            return _pictures(request.texts, names[0])
        return (({names[0]: text, **pair}, f"text {i}") for i, text in enumerate(request.texts, 1))
    if request.input is None:
        if sys.stdin.isatty():
            print("kdnative: reading texts, one a line; Ctrl-D ends them", file=sys.stderr)
        return _text_lines("standard input", sys.stdin.buffer, names, rejected)
    path = Path(request.input)
    if path.is_dir():
        if not pictures:
            raise ValueError(f"--input {path}: a folder, and the student reads texts; give a file of these")
        return _pictures([str(path)], names[0])
    if path.suffix.lower() == ".parquet":
        return _parquet_rows(path, names)
    readers = {".txt": _text_lines, ".jsonl": _json_lines}
    return _of_file(path, readers.get(path.suffix.lower(), _delimited), names, rejected)


def _of_file(path: Path, read: Callable[..., Iterator[Row]], names: Sequence[str], rejected: Rejected) -> Iterator[Row]:
    with path.open("rb") as file:
        yield from read(str(path), file, names, rejected)


def _lines(path: str, file: BinaryIO, broken: list[str]) -> Iterator[str]:
    """Lines of UTF-8; one that is not is told in `broken`, which the caller empties."""
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            wrong = f"byte 0x{line[error.start]:02x} is not UTF-8; save it as UTF-8 (iconv -f latin1 -t utf-8)"
            broken.append(f"{path}, line {number}: {wrong}")
            yield line.decode("utf-8", "replace")


def _text_lines(path: str, file: BinaryIO, names: Sequence[str], rejected: Rejected) -> Iterator[Row]:
    if len(names) > 1:
        raise ValueError(f"{path}: a line is one text; pairs are in two columns of .csv, .tsv, .jsonl or .parquet")
    broken: list[str] = []
    for number, line in enumerate(_lines(path, file, broken), 1):
        if broken:
            rejected(broken.pop())
        else:
            yield {names[0]: line.rstrip("\r\n")}, f"{path}, line {number}"


def _json_lines(path: str, file: BinaryIO, names: Sequence[str], rejected: Rejected) -> Iterator[Row]:
    broken: list[str] = []
    for number, line in enumerate(_lines(path, file, broken), 1):
        if broken:
            rejected(broken.pop())
        elif line.strip():
            where = f"{path}, line {number}"
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                rejected(f"{where}: not JSON that can be read ({error})")
                continue
            if isinstance(values, dict):
                yield values, where
            else:
                rejected(f"{where}: a {type(values).__name__}, but every line must be a JSON object")


def _delimited(path: str, file: BinaryIO, names: Sequence[str], rejected: Rejected) -> Iterator[Row]:
    from kdnative.data.tables import delimited

    broken: list[str] = []
    reader, header = delimited(_lines(path, file, broken), Path(path), None), None
    while True:
        where = f"{path}, line {reader.line_num + 1}"  # a quoted field may span lines: the one where it starts
        try:
            fields = next(reader)
            problem = broken[0] if broken else None
        except StopIteration:
            return
        except csv.Error as error:
            fields, problem = [], f"{where}: {error}"
        broken.clear()
        if header is None and fields and problem is None:
            header = fields
            _check_columns(path, header, names)
        elif header is None and problem is not None:
            raise ValueError(problem)
        elif problem is not None:
            rejected(problem)
        elif fields and header is not None and len(fields) != len(header):
            rejected(f"{where}: {len(fields)} columns, but the header has {len(header)}")
        elif fields and header is not None:
            yield dict(zip(header, fields, strict=True)), where


def _check_columns(path: str, found: Sequence[str], names: Sequence[str]) -> None:
    for name in names:
        if name not in found:
            option = "--column" if name == names[0] else "--pair-column"
            raise ValueError(f"{path}: no column {shown(name)}; it has {listed(found)}: name the right one ({option})")
    if len(set(found)) < len(found):
        raise ValueError(f"{path}: a column's name occurs more than once in {listed(found)}: rename it")


def _parquet_rows(path: Path, names: Sequence[str]) -> Iterator[Row]:
    pyarrow, parquet = arrow()
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(str(path), file.schema_arrow.names, names)
            number = itertools.count(1)
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    yield values, f"{path}, row {next(number)}"
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file that can be read ({error})") from error


def arrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise ImportError(
            f".parquet needs the package 'pyarrow', which is not installed: {how_to_get('hub')}"
        ) from error


def _pictures(paths: Iterable[str], name: str) -> Iterator[Row]:
    """The files themselves, and those in folders that have the name of a picture, in the order of their names."""
    from kdnative.data.images.decoding import SUFFIXES

    for path in paths:
        found = [path]
        if Path(path).is_dir():
            found = sorted(str(p) for p in Path(path).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not found:
                raise ValueError(f"{path}: a folder without pictures ({', '.join(SUFFIXES)})")
        for one in found:
            yield {name: one}, ""  # whose place is its path
