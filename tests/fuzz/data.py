"""Target: files of texts and labels, in :func:`kdnative.data.load_dataset`."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdnative.data import DataError, load_dataset
from tests.fuzz.mutate import change_bytes, change_text, change_tree, few
from tests.fuzz.target import Finding
from tests.fuzz.words import TEXTS

__all__ = ["DataFiles", "Files"]

_ROWS = [(f"sentence {number} of some words", ("positive", "negative")[number % 3 == 0]) for number in range(40)]
_PIECES = [
    *TEXTS,
    *('"', '""', '"a\nb"', ",", "\t", "\r", "\x00", "\ufeff", "text,label", "text\tlabel"),
    *("{}", "[]", '{"text": 1}', "[" * 5000, '{"a":' * 5000),
]
_SPLITS = ((0.8, 0.1, 0.1), (1, 0, 0), (0, 0, 1), (0.5, 0.5, 0), (1e-9, 1, 1))


@dataclass
class Files:
    """Files by their names, which one of them to read (or the folder, ""), and how; and which has further texts."""

    files: dict[str, bytes]
    read: str
    options: dict[str, Any] = field(default_factory=dict)
    more: str | None = None


class DataFiles:
    """See :class:`tests.fuzz.target.Target`."""

    inputs = None

    def __init__(self, folder: Path) -> None:
        pass

    def make(self, number: int, rng: random.Random) -> Files:
        names = rng.choice((["data"], ["data"], ["train", "test"], ["train", "validation"]))
        suffix = rng.choice((".csv", ".tsv", ".jsonl"))
        files = {name + suffix: _file(rng, suffix) for name in names}
        made = Files(files, "" if len(names) > 1 else "data" + suffix, {})
        if rng.random() < 0.3:
            made.options["empty"] = "drop"
        if rng.random() < 0.2:
            made.options["label_column"] = None
        if rng.random() < 0.2:
            made.options["unlabelled"] = "keep"
        if rng.random() < 0.2:
            made.options["labelled"] = rng.choice((1, 2, 10, 1000))
        if rng.random() < 0.2:
            made.files["more.txt"] = _file(rng, ".csv")
            made.more = "more.txt"
        if rng.random() < 0.1:
            made.options["numbers"] = True
        if rng.random() < 0.1:
            made.options["text_pair_column"] = rng.choice(("text", "label", "text_pair"))
        if rng.random() < 0.1:
            made.options["text_column"] = rng.choice(("label", "", "text ", "x"))
        if rng.random() < 0.3:
            made.options["split"] = rng.choice(_SPLITS)
        if rng.random() < 0.2:
            made.options["limit"] = rng.choice((1, 2, 1000))
        return made

    def run(self, made: Files, folder: Path) -> bool:
        for name, data in made.files.items():
            (folder / name).write_bytes(data)
        try:
            further = [] if made.more is None else [folder / made.more]
            splits = load_dataset(folder / made.read, unlabelled_files=further, **made.options)
        except DataError as error:
            if str(folder) not in str(error):
                raise Finding(f"an error that does not name the file: {error}") from error
            return False
        except ValueError as error:
            if "split=" not in str(error):
                raise
            return False
        if not all(len(split) for split in (splits.train, splits.validation, splits.test)):
            raise Finding("a split without rows")
        return bool(splits.fingerprint)

    def describe(self, made: Files) -> str:
        files = [f"{name}: {data[:1500]!r}" for name, data in made.files.items()]
        return "\n".join([*files, f"{made.read!r} {made.more!r} {made.options}"])

    def save(self, made: Files, folder: Path) -> None:
        folder.mkdir()
        for name, data in made.files.items():
            (folder / name).write_bytes(data)


def _file(rng: random.Random, suffix: str) -> bytes:
    if suffix == ".jsonl":
        rows = [{"text": text, "label": label} for text, label in _ROWS]
        for _ in range(rng.choice((0, 0, 1, 3))):
            change_tree(rng, rng.choice(rows) or {"text": ""}, {})
        text = "\n".join(json.dumps(row) for row in rows)
    else:
        separator = "," if suffix == ".csv" else "\t"
        text = "\n".join(separator.join(row) for row in [("text", "label"), *_ROWS])
    for _ in range(few(rng)):
        text = change_text(rng, text, _PIECES)
    data = text.encode("utf-8", "surrogatepass")
    return data if rng.random() < 0.85 else change_bytes(rng, data)
