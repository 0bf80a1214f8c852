"""The transfer set: training texts without a label, of which a student learns what its teacher says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdnative.data.columns import Columns
from kdnative.data.tables import SUFFIXES, Row, check_file, decode, read_rows
from kdnative.data.types import LABEL, TEXT, DataError, Dataset, DataSplits, Example, text_hash

__all__ = ["TEXT_SUFFIXES", "add_texts", "keep_labels", "read_texts"]

TEXT_SUFFIXES = (".txt", *SUFFIXES)


def keep_labels(train: Dataset, count: int, source: str) -> Dataset:
    """Takes the labels of all but `count` examples away; all examples stay.

    Which ones keep theirs depends on the hash of the text alone, so it never changes with the order of the rows or a
    seed. Every class keeps its share of the labels (Sainte-Lague's rule), and at least one. Targets are one class.

    Args:
        train: the training split.
        count: how many labels stay.
        source: where the data comes from, for messages.

    Raises:
        DataError: there are fewer labels, or more classes than `count`.
    """
    members: dict[int | None, list[int]] = defaultdict(list)
    for i, e in enumerate(train):
        if e.label is not None:
            members[e.label if train.labels else None].append(i)
    available = sum(map(len, members.values()))
    if count > available:
        raise DataError(
            f"{source}: labelled={count:,} (data.labelled in a recipe), but only {available:,} training "
            "examples have a label: give at most that number"
        )
    if count < len(members):
        raise DataError(
            f"{source}: labelled={count:,} (data.labelled in a recipe), but there are {len(members):,} "
            "classes: give at least one label per class"
        )
    hashes = [text_hash(e.content) for e in train]
    ranked = []
    for positions in members.values():
        positions.sort(key=lambda i: (hashes[i], i))
        # The labels of a class lie evenly between 0 and 1, so the first ones of all classes are in proportion.
        ranked += [((n + 0.5) / len(positions) if n else 0.0, hashes[i], i) for n, i in enumerate(positions)]
    kept = {i for *_, i in sorted(ranked)[:count]}
    examples = [e if i in kept or e.label is None else _unlabelled(e) for i, e in enumerate(train)]
    return Dataset(examples, train.labels, train.name)


def add_texts(
    found: DataSplits, files: Sequence[str | Path], columns: Columns, empty: str, limit: int | None = None
) -> DataSplits:
    """Adds the texts of files to the training split, without a label.

    A text that is in any split already, or was added before, is left out; ``notes`` say how many were.

    Args:
        found: the splits.
        files: ``.txt`` with one text a line (blank lines do not count), or ``.csv``, ``.tsv`` and ``.jsonl`` with the
            columns of texts. Labels in them are not read.
        columns: names of the columns.
        empty: "error" or "drop": rows without text.
        limit: at most this many texts of each file, chosen by hash.

    Raises:
        DataError: as `read_rows`; or a .txt file where an example has two texts.
    """
    if not files:
        return found
    held_out = {text_hash(e.texts) for part in (found.validation, found.test) for e in part}
    seen = {text_hash(e.texts) for e in found.train} | held_out
    examples, notes = list(found.train), list(found.notes)
    for number, file in enumerate(files, 1):
        texts = read_texts(file, columns, empty, name=f"unlabelled {number}")
        added = held = 0
        for e in texts.head(limit):
            digest = text_hash(e.texts)
            held += digest in held_out
            if digest not in seen:
                seen.add(digest)
                examples.append(e)
                added += 1
        repeated = min(len(texts), limit or len(texts)) - added - held
        notes.append(
            f"{file}: {added:,} texts without a label are added to the training split; {held:,} texts of the "
            f"validation or test split and {repeated:,} duplicates are left out"
        )
    return replace(found, train=Dataset(examples, found.train.labels, found.train.name), notes=tuple(notes))


def read_texts(file: str | Path, columns: Columns, empty: str = "error", *, name: str = "texts") -> Dataset:
    """The texts of a file, without labels: a data set for `tokenize`.

    Args:
        file, columns, empty: as for `add_texts`.
        name: what the ids of the examples begin with; a line number follows.

    Raises:
        DataError: as `add_texts`; or the file has no texts.
    """
    rows = _read(Path(file), columns, empty)
    return Dataset([Example({**row.texts, LABEL: None}, f"{name}:{row.line}") for row in rows])


def _read(path: Path, columns: Columns, empty: str) -> list[Row]:
    if path.suffix.lower() != ".txt":
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: unknown kind of file {path.suffix!r}; allowed are {', '.join(TEXT_SUFFIXES)}")
        delimiter = None if path.suffix.lower() == ".jsonl" else columns.delimiter
        return read_rows(path, replace(columns, label=None, delimiter=delimiter), empty)
    if columns.text_pair is not None:
        raise DataError(
            f"{path}: a .txt file has one text per line, but pairs are needed: give a .csv, .tsv or .jsonl file"
        )
    check_file(path)
    lines = decode(path, path.read_bytes()).split("\n")
    rows = [Row({TEXT: line.strip()}, None, str(path), n) for n, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError(f"{path}: no texts")
    return rows


def _unlabelled(e: Example) -> Example:
    return Example({**e.fields, LABEL: None}, e.id)
