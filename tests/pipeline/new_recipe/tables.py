"""Tables as people make them, at random: odd names, orders, delimiters, gaps and labels."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

from tests.pipeline.conftest import BAD, GOOD, OTHER

TEXTS = ("text", "Review Body", "review_body", "comment", "message", "Unnamed: 3", "X", "d\u00e9tail", "say, what?")
LABELS = ("label", "stars", "sentiment", "Class ", "y", "is spam", "gold_label", "Q7", "rating (1-5)")
NAMES = ("data", "My Data (1)", "zus\u00e4tze")
FORMATS = (".csv", ".csv", ".tsv", ".jsonl")


def sentence(rng: random.Random) -> str:
    words = [rng.choice(OTHER + GOOD + BAD) for _ in range(rng.randint(3, 14))]
    if rng.random() < 0.1:
        words.insert(1, rng.choice((",", ";", '"so"', "it's", "\u00fcber", "\u2028", "\U0001f600")))
    return " ".join(words)


def labels_of(rng: random.Random):
    """A function that makes labels of one kind."""
    kind = rng.randrange(14)
    if kind == 0:
        return lambda: rng.choice(("yes", "no"))
    if kind == 1:
        return lambda: "ham" if rng.random() < 0.9 else "spam"
    if kind == 2:
        return lambda: rng.randint(1, 5)
    if kind == 3:
        return lambda: round(rng.uniform(-2, 2), 2)
    if kind == 4:
        return lambda: rng.choice((True, False))
    if kind == 5:
        return lambda: "only one"
    if kind == 6:
        return lambda: rng.choice((0.0, 1.0))
    if kind == 7:
        return lambda: rng.choice((["a"], ["a", "b"]))
    return lambda: f"class {rng.randint(1, 12 - kind // 2)}"


def random_table(rng: random.Random, folder: Path) -> Path:
    """Writes a file."""
    count = rng.choice((1, 5, 12, 40, 60, 90, 120, 150))
    label = labels_of(rng)
    gaps, blanks = rng.choice((0.0, 0.0, 0.3, 0.9)), rng.choice((0.0, 0.0, 0.1))
    columns = {
        rng.choice(TEXTS): lambda i: "" if rng.random() < blanks else sentence(rng),
        rng.choice(LABELS): lambda i: None if rng.random() < gaps else label(),
    }
    if rng.random() < 0.3:
        columns[rng.choice(("hypothesis", "text 2", "title"))] = lambda i: sentence(rng)
    if rng.random() < 0.5:
        columns[rng.choice(("id", "Unnamed: 0", ""))] = lambda i: i
    if rng.random() < 0.3:
        columns["created"] = lambda i: f"2024-0{i % 9 + 1}-1{i % 10}"
    names = list(columns)
    rng.shuffle(names)
    rows = [[columns[name](i) for name in names] for i in range(count)]
    if rng.random() < 0.2:
        rows.append([sentence(rng) if name in TEXTS else "a class of one" for name in names])
    path = folder / (rng.choice(NAMES) + rng.choice(FORMATS))
    path.write_bytes(
        _as_json(rng, names, rows) if path.suffix == ".jsonl" else _as_table(rng, names, rows, path.suffix)
    )
    return path


def _as_json(rng: random.Random, names: list[str], rows: list[list]) -> bytes:
    lossy = rng.random() < 0.3
    records = [{n: v for n, v in zip(names, row, strict=True) if not (lossy and v is None)} for row in rows]
    return "\n".join(json.dumps(r, ensure_ascii=rng.random() < 0.5) for r in records).encode()


def _as_table(rng: random.Random, names: list[str], rows: list[list], suffix: str) -> bytes:
    delimiter = rng.choice(",;\t") if suffix == ".csv" else "\t"
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=rng.choice(("\n", "\r\n")))
    writer.writerows([names, *rows])
    data = out.getvalue()
    if rng.random() < 0.05:
        data += f"one{delimiter}two{delimiter}three{delimiter}four{delimiter}five{delimiter}six\n"
    return data.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16" if rng.random() < 0.1 else "utf-8")))
