"""What recipes say of training reaches the loop: accumulated batches, an early end, the measure that selects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kdnative
from kdnative.pipeline import RunFolder
from tests.pipeline.conftest import changed, write_recipe


def run(recipe: dict, place: Path, until: str) -> RunFolder:
    path = write_recipe(place / "r.yaml", recipe)
    return RunFolder(kdnative.run(path, runs=place / "runs", progress=False, until=until))


def test_accumulated_batches_make_fewer_steps(tiny, tmp_path):
    teacher = {"epochs": 2, "batch_size": 8, "accumulate": 4}
    found = run(changed(tiny, train_teacher=teacher), tmp_path, "train_teacher")
    examples = found.metrics("train_teacher")["data"]["labelled"]
    steps = 2 * -(-examples // 32)
    assert found.metrics("train_teacher")["steps"] == steps
    log = (found.path / "log.txt").read_text(encoding="utf-8")
    assert f"train_teacher: {examples} examples, {steps // 2} steps an epoch, {steps} steps in 2 epochs" in log
    assert (
        "train_teacher: starts (stage 1 of 10)" in log and "data: 2 classes, with these training examples: 'neg" in log
    )


@pytest.mark.parametrize("scheme", ["w8a8", None])
def test_the_epoch_closest_to_the_teacher_is_kept(tiny, tmp_path, scheme):
    distil = {"epochs": 3, "max_steps": None, "lr": 5e-2, "select_by": "kl"}
    recipe = changed(tiny, distil=distil, train_teacher={"epochs": 1}, compress_teacher={"scheme": scheme})
    found = run(changed(recipe, train_baseline=None), tmp_path, "distil").metrics("distil")
    distances = [point["validation_kl"] for point in found["history"]]
    assert len(distances) == 3 and found["best_epoch"] == distances.index(min(distances))
    assert {"validation_loss", "validation_accuracy", "validation_ece"} <= found["history"][0].keys()


def test_a_training_that_gets_no_better_ends_early(tiny, tmp_path):
    """Of a learning rate that changes nothing, the first epoch stays the best."""
    teacher = {"epochs": 9, "lr": 1e-12, "early_stopping": 2}
    found = run(changed(tiny, train_teacher=teacher), tmp_path, "train_teacher")
    metrics = json.loads((found.output("train_teacher") / "metrics.json").read_text(encoding="utf-8"))
    assert len(metrics["history"]) == 3 and metrics["best_epoch"] == 0
    log = (found.path / "log.txt").read_text(encoding="utf-8")
    assert "stopped early: validation accuracy did not improve for 2 epochs; epoch 1 was the best" in log
