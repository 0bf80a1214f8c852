"""``kdnative predict``: what a student says about texts or pictures, from one kind of file to another.

Rows are read, predicted and written a window at a time, so a file of any size takes the memory of one window.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator

from kdnative.extras import require
from kdnative.files import write_atomically
from kdnative.predict.request import Request
from kdnative.predict.rows import Rejected, Row, read_rows

__all__ = ["Request", "run"]

_WINDOW = 4096  # rows that are sorted by length together


def run(request: Request) -> int:
    """Predict every row, write it, and return how many there were.

    Raises:
        ValueError, OSError, RuntimeError, ImportError: something about the model or the rows; the text says what.
    """
    from kdnative.predict import folders

    folder = folders.folder_of(request.student)
    reads = folders.what_it_reads(folder)
    names = [request.column or ("path" if reads == "pictures" else "text")]
    if request.pair_column is not None or request.text_pair is not None:
        names.append(request.pair_column or "text_pair")
    rejected = Rejected(request.skip_bad)
    windows = _windows(read_rows(request, names, rejected, pictures=reads == "pictures"))
    first = next(windows, None)  # what is wrong with the rows is told before a model is loaded
    if first is None:
        raise ValueError(f"{request.source}: {_none(rejected)}")

    from kdnative.predict.students import load
    from kdnative.predict.writing import check, columns_of, writer

    student = load(folder, reads, request, names)
    check(request, student)
    done = 0

    def predict(temporary: str | None) -> None:
        nonlocal done
        with writer(request, student, temporary) as write, _bar(request, len(first)) as advance:
            for window in itertools.chain([first], windows):
                values, failed = student.score([row for row, _ in window])
                for number, problem in failed.items():
                    where = window[number][1]
                    rejected(f"{where}: {problem}" if where else problem)
                rows = [row for number, (row, _) in enumerate(window) if number not in failed]
                if rows:
                    write(rows, columns_of(student, values, request.top))
                done += len(rows)
                advance(len(window))
            if not done:
                raise ValueError(f"{request.source}: {_none(rejected)}")

    if request.output is None:
        predict(None)
    else:
        write_atomically(request.output, predict)
    if student.cut:
        _warn(f"{student.cut:,} of {done:,} texts had more than {student.limit:,} tokens and were cut (--max-length)")
    if rejected.rows:
        _warn(f"rows left out, which can't be read: {rejected.rows:,}")
    return done


def _windows(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while window := list(itertools.islice(rows, _WINDOW)):
        yield window


def _none(rejected: Rejected) -> str:
    return f"none of its {rejected.rows:,} rows can be read" if rejected.rows else "it has no rows"


def _warn(text: str) -> None:
    print(f"kdnative: warning: {text}", file=sys.stderr)


@contextlib.contextmanager
def _bar(request: Request, first: int) -> Iterator[Callable[[int], object]]:
    """A function that is told of rows that are done; on a terminal it draws a bar where there are many."""
    table = request.output is None and sys.stdout.isatty()
    if table or not sys.stderr.isatty() or (request.input is None and first < _WINDOW):
        yield lambda count: None
        return
    with require("tqdm", "a progress bar").tqdm(unit=" rows", unit_scale=True, dynamic_ncols=True) as bar:
        yield bar.update
