"""`mask_tokens`: students learn what the teacher says of texts with hidden tokens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import kdnative
from kdnative.data import MaskedBatches
from kdnative.distill import SoftLabels
from kdnative.pipeline import PipelineError
from kdnative.pipeline.folder import RunFolder
from kdnative.pipeline.kinds.texts import TEXTS
from kdnative.pipeline.stages import student, training
from tests.pipeline.conftest import changed, write_model, write_recipe


def run_distil(tiny, tmp_path, name="tiny", **distil):
    settings = {"max_steps": 3, "hidden_weight": 0.0, **distil}
    recipe = changed(tiny, name=name, train_teacher={"epochs": 1, "max_steps": 2}, distil=settings)
    path = write_recipe(tmp_path / f"{name}.yaml", changed(recipe, train_baseline=None, prune=None, recover=None))
    return RunFolder(kdnative.run(path, runs=tmp_path / "runs", progress=False, until="distil"))


@pytest.mark.parametrize("hidden_weight", [0.0, 0.5])
def test_the_teacher_labels_what_is_left(tiny, tmp_path, monkeypatch, hidden_weight):
    seen = []
    original = training.train

    def train(model, batches, loss, config, **options):
        if isinstance(batches, MaskedBatches):
            seen.append((batches, options["teachers"]))
        return original(model, batches, loss, config, **options)

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(SoftLabels, "load", lambda *arguments, **options: pytest.fail("labels of other inputs"))
    run = run_distil(tiny, tmp_path, mask_tokens=0.3, hidden_weight=hidden_weight)
    ((batches, (teacher,)),) = seen
    assert batches.share == 0.3 and teacher.soft_labels is None and teacher.model is not None
    assert any((batch.inputs["input_ids"] == batches.mask_id).any() for batch in batches.epoch(0))
    point = run.metrics("distil")["history"][0]
    assert point["soft"] > 0 and ("hidden" in point) == bool(hidden_weight)


def test_no_teacher_runs_where_soft_labels_are_enough(tiny, tmp_path, monkeypatch):
    """So that the vocabularies of teacher and student need have nothing in common."""
    monkeypatch.setattr(student, "id_table", lambda *arguments: pytest.fail("ids were to be translated"))
    own = write_model(tmp_path / "student", layers=2, width=32, backwards=True)
    recipe = changed(tiny, student={"source": str(own), "layers": None})
    assert run_distil(recipe, tmp_path).metrics("distil")["history"][0]["soft"] > 0


def test_a_tokenizer_without_a_mask_token():
    words = SimpleNamespace(mask_token_id=None, all_special_ids=[])
    cache = {"tokenizer of m": words}
    context = SimpleNamespace(
        settings=SimpleNamespace(mask_tokens=0.1, batch_size=4),
        recipe=SimpleNamespace(seed=0),
        shared=SimpleNamespace(cache=cache),
        section="distil",
    )
    with pytest.raises(PipelineError, match=r"distil\.mask_tokens: the tokenizer of m has no mask token; set it to 0"):
        TEXTS.batches(context, "m", SimpleNamespace(labels=None))


def test_students_of_hidden_tokens_go_on_where_they_were(tiny, tmp_path, monkeypatch):
    whole = run_distil(tiny, tmp_path, "whole", mask_tokens=0.3, max_steps=9, save_every=2)
    monkeypatch.setenv("KDNATIVE_STORE", str(tmp_path / "another store"))  # else there is nothing left to train
    steps = []

    class Killed(training._Clock):
        def on_step(self, progress):
            steps.append(progress.step)
            if self.context.stage == "distil" and progress.step == 5:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_Clock", Killed)
        run_distil(tiny, tmp_path, "killed", mask_tokens=0.3, max_steps=9, save_every=2)
    run = RunFolder(
        kdnative.run(tmp_path / "killed.yaml", runs=tmp_path / "runs", progress=False, until="distil", resume=True)
    )
    states = [kdnative.load(each.output("distil") / "model").state_dict() for each in (whole, run)]
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
