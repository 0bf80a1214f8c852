"""The texts of ``kdnative bench quality``: what measures a model, and what calibrates it, never the same ones.

Embedders are measured on two domains: movie reviews, and first sentences of the docstrings of Python's standard
library, a domain that calibration never sees. They are calibrated on movie reviews of the training split.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kdnative.data import Dataset, DataSplits

_SHORTEST, _LONGEST = 20, 300  # characters of a sentence of a docstring


def embedder_texts(data: DataSplits, count: int) -> list[str]:
    """Held-out movie reviews and docstrings, half of each."""
    reviews = unique(texts_of([*data.test, *data.validation]))
    return [*reviews[: count // 2], *first_sentences(count - count // 2)]


def calibration_texts(data: DataSplits, count: int) -> list[str]:
    """Texts of the whole training split: those that lie together there are of the same few reviews."""
    return mixed_up(texts_of(data.train))[:count]


def texts_of(examples: Iterable) -> list[str]:
    """The texts of examples."""
    return [str(example["text"]) for example in examples]


def mixed_up(texts: Iterable[str]) -> list[str]:
    """Each text once, in an order that depends on nothing but the texts."""
    return sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest())


def unique(texts: Iterable[str]) -> list[str]:
    """Each text once, in order."""
    return list(dict.fromkeys(texts))


def held_out(data: DataSplits) -> Dataset:
    """The texts that measure a classifier where validation chooses nothing: validation and test."""
    return Dataset([*data.validation, *data.test], data.labels, "validation and test")


def stopping_and_measuring(data: DataSplits) -> tuple[Dataset, Dataset]:
    """The texts that stop a training, and others that measure what it made.

    Returns:
        Every other text of validation; the rest of it and test. Validation lies in the order of its classes.
    """
    validation = list(data.validation)
    stopping = Dataset(validation[::2], data.labels, "half of validation")
    return stopping, Dataset([*validation[1::2], *data.test], data.labels, "other half of validation, and test")


def first_sentences(count: int) -> list[str]:
    """First sentences of docstrings of the standard library, in an order that depends on nothing but them.

    Raises:
        ValueError: there are fewer.
    """
    found = {sentence for text in docstrings() if _SHORTEST <= len(sentence := first_sentence(text)) <= _LONGEST}
    if len(found) < count:
        raise ValueError(f"the standard library here has {len(found)} different docstrings, but {count} are needed")
    return mixed_up(found)[:count]


def first_sentence(text: str) -> str:
    """A docstring up to its first full stop or empty line, on one line."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return paragraph.split(". ")[0]


def docstrings(folder: Path | None = None) -> Iterator[str]:
    """The docstrings of all modules in a folder, read without running them.

    Args:
        folder: by default the standard library, without its tests and without installed packages.
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if folder is None else folder
    for file in sorted(root.rglob("*.py")):
        if not {"site-packages", "dist-packages", "test", "tests", "idlelib"} & set(file.relative_to(root).parts):
            yield from _docstrings_of(file)


def _docstrings_of(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():  # of escapes in other people's texts
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                yield text


def chunks(ids: Sequence[int], length: int, count: int) -> list[list[int]]:
    """The first ``count`` windows of token ids, one after the other, all of the same length."""
    return [list(ids[i : i + length]) for i in range(0, len(ids) - length + 1, length)][:count]
