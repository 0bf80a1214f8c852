"""What the report shows of pictures: some with predictions, and what noise, blur and JPEG do to the models."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdnative.data.images import CORRUPTIONS, CorruptedDataset, ImageDataset
from kdnative.data.images.corruptions import STRENGTHS
from kdnative.evaluate import Predictions, predict
from kdnative.pipeline.kinds.base import Context

__all__ = ["corruptions", "samples"]

_SAMPLES = 24
_MOST_CORRUPTED = 1000  # pictures of the test split: nine passes of each model are over them


def samples(test: ImageDataset, answers: dict[str, Predictions]) -> list[dict[str, Any]]:
    """Test pictures that a hash of them has chosen, and what each model says they are.

    Args:
        answers: of "teacher" and "student" to the whole test split.
    """
    numbers = {e.id: i for i, e in enumerate(test.source)}
    chosen = [numbers[e.id] for e in test.source.head(_SAMPLES)]
    names = test.label_names
    return [{"index": i, "label": names[test.source[i].label], **_told(answers, names, i)} for i in chosen]


def _told(answers: dict[str, Predictions], names: tuple[str, ...], index: int) -> dict[str, str]:
    found = {}
    for who, predictions in answers.items():
        sure, number = predictions.logits[index].double().softmax(-1).max(-1)
        found[who] = f"{names[int(number)]} ({100 * float(sure):.0f} %)"
    return found


def corruptions(context: Context, test: ImageDataset, models: dict[str, nn.Module]) -> list[dict[str, Any]]:
    """The deciding measure of each model on worse pictures, and as they are, on the same ones.

    Args:
        models: "teacher" and "student".

    Returns:
        A row for each corruption and strength: {"corruption", "strength", "n", and an estimate for each model}.
    """
    task = context.task
    some = test.source.head(_MOST_CORRUPTED)
    data = ImageDataset(some, test.preprocessing)
    rows: list[dict[str, Any]] = []
    for name, strength in [("none", 0), *((name, s) for name in CORRUPTIONS for s in STRENGTHS)]:
        worse = CorruptedDataset(data, name, strength, context.recipe.seed) if strength else data
        row: dict[str, Any] = {"corruption": name, "strength": strength, "n": len(data)}
        for who, model in models.items():
            device = "cpu" if who == "student" else context.device  # the student is native
            found = predict(model, worse, batch_size=context.settings.batch_size, device=device)
            row[who] = task.quality(found, found, context.recipe.seed)[task.deciding.key]
        rows.append(row)
    context.log.info("evaluate: %d pictures with noise, blur and JPEG", len(data))
    return rows
