"""`kdnative convert --calibrate FILE`: texts of a file as batches of a model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from kdnative.cnn.spans import METHODS as METHODS_OF_RANGES
from kdnative.data import Batches, DataError, Dataset, tokenize
from kdnative.data.columns import Columns
from kdnative.data.sniff import read_sheet
from kdnative.data.tables import SUFFIXES
from kdnative.data.transfer import read_texts
from kdnative.pipeline.limits import positions
from kdnative.precision.examples import Examples
from kdnative.precision.metrics import METRICS, Answers, answers, drops, smooth
from kdnative.quantize.methods import method_named
from kdnative.shown import listed

if TYPE_CHECKING:
    from kdnative.formats.scheme import Scheme

__all__ = ["Loss", "batches_of", "check_rounding", "rounding_warning", "two_parts"]

_BATCH, _TOKENS = 32, 128


def check_rounding(scheme: Scheme, method: str | None, file: str | None, column: str | None, texts: int | None) -> None:
    """Refuses what can't be done without texts or pictures, before anything is loaded.

    Raises:
        ValueError: an unknown method, one that needs texts where there is no file, options of a file that is not
            there, or 2 bits without a word on how to round.
    """
    if texts is not None and texts < 1:
        raise ValueError(f"--texts must be at least 1, got {texts}")
    pictures = file is not None and Path(file).is_dir()
    if pictures and column is not None:
        raise ValueError(f"--column {column} is given, but {file} is a folder and has no columns: leave --column out")
    if method in METHODS_OF_RANGES:
        if not pictures:
            raise ValueError(
                f"--method {method} is for convolutional networks and needs pictures: add --calibrate FOLDER"
            )
        return
    found = None if method is None else method_named(method)
    if file is not None:
        return
    for option, value in (("--column", column), ("--texts", texts)):
        if value is not None:
            raise ValueError(f"{option} {value} needs --calibrate FILE: add it, or leave {option} out")
    if found is not None and found.needs:
        raise ValueError(f"--method {found.name} needs texts to calibrate on: add --calibrate FILE")
    if found is None and scheme.weight.bits == 2:
        raise ValueError(
            f"rounding to nearest in {scheme} destroys most of a model's accuracy: add --calibrate FILE with "
            "texts (GPTQ). To round to nearest anyway, give --method rtn"
        )


def rounding_warning(scheme: Scheme) -> str:
    """What to know of weights that are rounded to the nearest for want of texts; empty where that is fine."""
    if scheme.weight.bits > 4:
        return ""
    return (
        f"weights in {scheme} are rounded to nearest, which loses accuracy (MiniLM's embeddings: 25 % of the "
        "nearest neighbours change). To calibrate them, add --calibrate FILE with texts"
    )


def two_parts(file: str | Path, column: str, count: int) -> tuple[Dataset, Dataset]:
    """So many texts to calibrate on, and at most as many others to measure on; chosen by a hash of the text.

    Args:
        file: .txt with one text a line, .jsonl, or a table, separated by whatever fits all of its rows.

    Raises:
        DataError: the file can't be read, has no such column or no texts.
    """
    delimiter = None
    if Path(file).suffix.lower() in SUFFIXES:
        sheet = read_sheet(file)
        if column not in sheet.columns:
            twice = " once" if column in sheet.repeated else ""
            names = listed(sheet.columns) or "none"
            raise DataError(
                f"{file} has no column {column!r}{twice}: name the text column with --column; the file has {names}"
            )
        delimiter = sheet.delimiter
    texts = read_texts(file, Columns(text=column, label=None, delimiter=delimiter), "drop")
    if not len(texts):
        raise DataError(f"{file}: no texts")
    both = texts.head(2 * count)
    first = both.head(count)
    used = {example.id for example in first}
    return first, Dataset([example for example in both if example.id not in used])


def batches_of(texts: Dataset, model: nn.Module, tokenizer: Any) -> list[dict[str, Tensor]]:
    """The texts as inputs of a model, longest first; cut to 128 tokens, or to what the model reads.

    Raises:
        DataError: there is no tokenizer beside the model.
    """
    if tokenizer is None:
        raise DataError(
            "the model folder has no tokenizer, so texts can't be used for calibration: add the tokenizer files, "
            "or calibrate with batches in Python"
        )
    limit = min(_TOKENS, positions(model) or _TOKENS) if hasattr(model, "config") else _TOKENS
    return [batch.inputs for batch in Batches(tokenize(texts, tokenizer, limit), _BATCH)]


class Loss:
    """How far a converted model is from the float one, on some batches.

    Args:
        model: in float; it answers now, and may be converted in place afterwards.
        batches: of `batches_of`, or of pictures.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Tensor | dict[str, Tensor]]) -> None:
        self.examples = Examples.of(list(batches))
        self.before = self._answers(model)

    def __call__(self, model: nn.Module) -> str:
        """The loss in words."""
        after, kind = self._answers(model), self.before.kind
        names = [smooth(kind).name, *(["agreement"] if kind == "classes" else [])]
        values = [(METRICS[name].words, drops(METRICS[name], self.before, after, None).mean()) for name in names]
        found = [f"{words} {value:.4g}" for words, value in values]
        if kind == "embeddings" and len(self.examples) > 2:
            same = _nearest(self.before) == _nearest(after)
            found.append(f"{100 * same.mean():.1f} % keep their nearest neighbour")
        return ", ".join(found)

    def _answers(self, model: nn.Module) -> Answers:
        return answers(model, self.examples, np.arange(len(self.examples)))


def _nearest(found: Answers) -> np.ndarray:
    """Of each embedding the number of the one with the largest cosine."""
    vectors = nn.functional.normalize(found.joined(), dim=-1)
    return (vectors @ vectors.T).fill_diagonal_(-2.0).argmax(1).numpy()
