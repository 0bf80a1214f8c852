"""The subjects of a run of ``kdnative bench quality``, from the names on its command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from kdnative.bench.quality_cases import WINDOWS
from kdnative.bench.quality_classifier import classifier, splits
from kdnative.bench.quality_decoder import load_decoder
from kdnative.bench.quality_subjects import Subject, load_classifier, load_embedder, short_name
from kdnative.bench.quality_texts import calibration_texts, embedder_texts, held_out, texts_of, unique
from kdnative.data import Dataset
from kdnative.extras import require

_WINDOWS = 32  # that measure a language model


def subjects(
    embedders: Sequence[str],
    classifiers: Sequence[str],
    decoder: str | None,
    *,
    texts: int = 1000,
    calibration: int = 512,
    say: Callable[[str], None] = lambda line: None,
) -> list[Subject]:
    """Loads models and texts.

    Args:
        embedders: as `kdnative.data.model_path` takes them.
        classifiers: encoders that are fine-tuned here, or folders of fine-tuned ones.
        decoder: a language model; None: none.
        texts: that measure an embedder. A classifier is measured on all texts that it never saw.
        calibration: texts that may calibrate.
        say: told what takes long.
    """
    require("transformers", "this benchmark").utils.logging.disable_progress_bar()
    data = splits()
    calibrating = calibration_texts(data, calibration)
    measuring = embedder_texts(data, texts)
    found: list[Subject] = [load_embedder(source, measuring, calibrating) for source in embedders]
    rows = _different(held_out(data), set(calibrating))
    labels = [int(label) for example in rows if (label := example.label) is not None]
    for source in classifiers:
        folder = source if _is_classifier(source) else str(classifier(source, say))
        found.append(load_classifier(folder, short_name(source), texts_of(rows), labels, calibrating))
    if decoder is not None:
        found.append(load_decoder(decoder, _WINDOWS, WINDOWS))
    return found


def _is_classifier(source: str) -> bool:
    """Whether a folder holds a fine-tuned model."""
    file = Path(source) / "config.json"
    if not file.is_file():
        return False
    named = json.loads(file.read_text(encoding="utf-8")).get("architectures") or [""]
    return named[0].endswith("ForSequenceClassification")


def _different(rows: Dataset, others: set[str]) -> Dataset:
    """Each text once, and none of the others: sentences occur in several reviews."""
    kept = {example["text"]: example for example in rows if example["text"] not in others}
    return Dataset([kept[text] for text in unique(texts_of(rows)) if text in kept], rows.labels, rows.name)
