"""Predictions as columns, and the files and tables that they are written to, window by window."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import torch

from kdnative.predict.request import Request
from kdnative.predict.rows import arrow
from kdnative.predict.students import Rows, Student
from kdnative.shown import listed, printable, shown

__all__ = ["check", "columns_of", "writer"]

_LIKELY = 0.5  # from this probability on a class is one of several
_WIDEST = 60  # characters of a cell of the table
_CLASSES, _SHOWN = 3, 4  # classes, or numbers of an embedding, in the table

Columns = Mapping[str, Any]  # lists of N; embeddings are float32 [N, D]
Write = Callable[[Rows, Columns], None]
WriteMerged = Callable[[Iterator[dict[str, Any]]], None]


def check(request: Request, student: Student) -> None:
    """ValueError where a student has nothing that the output's kind of file could hold."""
    if request.output is not None and request.output.endswith(".npy") and student.kind != "embedding":
        raise ValueError(f"--output {request.output}: .npy is for embeddings; give a name that ends in .jsonl or .csv")
    if request.top is not None and not student.kind.startswith(("classes", "several")):
        raise ValueError(f"--top {request.top}: it is about classes, and this student has none")
    if request.output is not None and request.output.endswith(".parquet"):
        arrow()


def columns_of(student: Student, values: Any, top: int | None) -> dict[str, Any]:
    """What logits or embeddings, float32 [N, outputs], say: each prediction's column."""
    if student.kind == "embedding":
        return {"embedding": values}
    if student.kind == "number":
        return {"score": values[:, 0].tolist()}
    if student.kind == "classes":
        shares = torch.from_numpy(values).softmax(-1).numpy()
    else:  # in double precision: torch's sigmoid of a number depends on its place in the batch
        shares = (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)
    names = student.classes or tuple(map(str, range(values.shape[1])))
    order = np.argsort(-shares, axis=1, kind="stable")[:, :top]
    best = np.take_along_axis(shares, order, 1).tolist()
    named = [[names[i] for i in row] for row in order.tolist()]
    scores = [dict(zip(row, own, strict=True)) for row, own in zip(named, best, strict=True)]
    found = {"label": [row[0] for row in named], "score": [own[0] for own in best], "scores": scores}
    if student.kind == "several":
        found["labels"] = [[names[i] for i in np.flatnonzero(row >= _LIKELY)] for row in shares]
    return found


@contextlib.contextmanager
def writer(request: Request, student: Student, temporary: str | None) -> Iterator[Write]:
    """What writes rows and predictions: into a new file, or on standard output (None)."""
    if temporary is None:
        yield _table(sys.stdout, student, request.top) if sys.stdout.isatty() else _merged(_json_lines(sys.stdout))
        return
    suffix = Path(str(request.output)).suffix
    if suffix == ".parquet":
        with _parquet(temporary) as write:
            yield write
    elif suffix == ".npy":
        with open(temporary, "wb") as binary, _npy(binary) as write:
            yield write
    else:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            yield _merged(_json_lines(file) if suffix == ".jsonl" else _delimited(file, suffix))


def _merged(write: WriteMerged, names: dict[str, str] | None = None) -> Write:
    """Rows with their predictions, which take other names where the first rows have columns of these.

    ``names`` is given those that they take.
    """
    names = {} if names is None else names

    def merge(rows: Rows, columns: Columns) -> Iterator[dict[str, Any]]:
        if not names:
            names.update(_names(columns, rows))
        own = [column if isinstance(column, list) else column.tolist() for column in columns.values()]
        for row, *values in zip(rows, *own, strict=True):
            both = {**row, **dict(zip(names.values(), values, strict=True))}
            if len(both) < len(row) + len(values):
                taken = next(name for name in names.values() if name in row)
                raise ValueError(f"a later row has a column {shown(taken)}, and the first ones have not: rename it")
            yield both

    return lambda rows, columns: write(merge(rows, columns))


def _names(columns: Iterable[str], rows: Rows) -> dict[str, str]:
    taken, names = set().union(*rows), {}
    for column in columns:
        name = column
        while name in taken:
            name = f"predicted_{name}"
        names[column] = name
    return names


def _json_lines(file: TextIO) -> WriteMerged:
    escaped = (file.encoding or "").lower().replace("-", "") != "utf8"

    def write(rows: Iterator[dict[str, Any]]) -> None:
        file.writelines(json.dumps(row, ensure_ascii=escaped, default=str) + "\n" for row in rows)
        file.flush()

    return write


def _delimited(file: TextIO, suffix: str) -> WriteMerged:
    """As `kdnative.data.tables` reads them: .tsv has no quotes."""
    plain = suffix == ".tsv"
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if plain else {}
    out = csv.writer(file, lineterminator="\n", **options)
    header: list[str] = []

    def write(rows: Iterator[dict[str, Any]]) -> None:
        for row in rows:
            if not header:
                header.extend(row)
                out.writerow(header)
            _check_columns(row, header)
            try:
                out.writerow([_cell(row.get(name)) for name in header])
            except csv.Error as error:
                raise ValueError(f"a row can't be written as {suffix} ({error}): write a .jsonl file") from error

    return write


def _check_columns(row: Mapping[str, Any], header: Sequence[str]) -> None:
    if more := row.keys() - set(header):
        raise ValueError(f"a row has {listed(sorted(more))}, and the first one has not: write a .jsonl file")


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (dict, list)) else value


@contextlib.contextmanager
def _npy(file: BinaryIO) -> Iterator[Write]:
    """Embeddings alone, as one array. Its header is written again at the end, with the number of rows."""
    shape = [0, 0]

    def header() -> None:
        file.seek(0)
        described = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, described)  # NumPy leaves space for more digits of the first axis

    def write(rows: Rows, columns: Columns) -> None:
        values = columns["embedding"]
        if not shape[0]:
            shape[1] = values.shape[1]
            header()
        shape[0] += len(values)
        file.write(values.astype("<f4").tobytes())

    yield write
    header()


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[Write]:
    pa, parquet = arrow()
    types = {
        "label": pa.string(),
        "labels": pa.list_(pa.string()),
        "score": pa.float32(),
        "scores": pa.map_(pa.string(), pa.float32()),
        "embedding": pa.list_(pa.float32()),
    }
    opened: list[Any] = []
    names: dict[str, str] = {}

    def schema_of(rows: Sequence[dict[str, Any]]) -> Any:
        own = {name: types[column] for column, name in names.items()}
        keys = dict.fromkeys(name for row in rows for name in row)
        inferred = pa.Table.from_pylist([{k: row.get(k) for k in keys if k not in own} for row in rows]).schema
        fields = [pa.field(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in inferred]
        return pa.schema([*fields, *(pa.field(name, kind) for name, kind in own.items())])

    def write(merged: Iterator[dict[str, Any]]) -> None:
        rows = list(merged)
        if (scores := names.get("scores")) is not None:
            for row in rows:
                row[scores] = list(row[scores].items())
        try:
            if not opened:
                opened.append(parquet.ParquetWriter(path, schema_of(rows)))
            for row in rows:
                _check_columns(row, opened[0].schema.names)
            opened[0].write_table(pa.Table.from_pylist(rows, schema=opened[0].schema))
        except pa.ArrowException as error:
            raise ValueError(f"rows can't be written as .parquet ({error}): write a .jsonl file") from error

    try:
        yield _merged(write, names)
    finally:
        for file in opened:
            file.close()


def _table(file: TextIO, student: Student, top: int | None) -> Write:
    """Aligned columns: label and score, the next classes where there are more than two, and the rows' own values."""
    others = student.kind in ("classes", "several") and (top or len(student.classes)) > 2

    def write(rows: Rows, columns: Columns) -> None:
        lines: list[list[str]] = []
        for number, row in enumerate(rows):
            found = {name: column[number] for name, column in columns.items()}
            cells = [str(found["label"])] if "label" in found else []
            cells += [f"{found['score']:.4f}"] if "score" in found else []
            if others:
                cells.append(
                    "  ".join(f"{name} {p:.4f}" for name, p in list(found["scores"].items())[1 : top or _CLASSES])
                )
            if "embedding" in found:
                few = " ".join(f"{v:.4f}" for v in found["embedding"][:_SHOWN])
                cells.append(f"[{few} ... {len(found['embedding'])} numbers]")
            lines.append([*cells, *(_short(str(value)) for value in row.values())])
        file.writelines(f"{line}\n" for line in _aligned(lines))
        file.flush()

    return write


def _short(text: str) -> str:
    words = printable(" ".join(text[: 4 * _WIDEST].split()))
    return words if len(words) <= _WIDEST and len(text) <= 4 * _WIDEST else f"{words[: _WIDEST - 3].rstrip()}..."


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=False)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip()
