"""A teacher that is pruned before it labels the data."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import kdnative
from kdnative.distill import SoftLabels
from kdnative.pipeline import PipelineError, RunFolder
from kdnative.pipeline.kinds.texts import TEXTS
from kdnative.pipeline.stages import teacher, training
from tests.pipeline.conftest import changed, write_recipe

PRUNE = {"ffn": 0.5, "layers": 2, "epochs": 2, "lr": 2e-3, "batch_size": 16, "save_every": 2, "amp": False}
PRUNE |= {"calibration_batches": 2, "multiple_of": 32}


def recipe_of(tiny: dict, **compress) -> dict:
    section = {"prune": PRUNE, **compress}
    return changed(tiny, train_teacher={"epochs": 1}, train_baseline=None, compress_teacher=section)


def run(recipe: dict, place, **options) -> RunFolder:
    path = write_recipe(place / "r.yaml", recipe)
    return RunFolder(kdnative.run(path, runs=place / "runs", progress=False, **options))


@pytest.mark.parametrize("scheme", ["w8a8", None])
def test_the_pruned_teacher_labels_the_data(tiny, tmp_path, scheme):
    done = run(recipe_of(tiny, scheme=scheme), tmp_path, until="distil")
    whole = kdnative.load(done.output("train_teacher") / "model")
    pruned = kdnative.load(done.output("compress_teacher") / "model").eval()
    figures = done.metrics("compress_teacher")
    assert figures["parameters_before"] == sum(p.numel() for p in whole.parameters()) > figures["parameters"]
    assert len(figures["history"]) == 2 and {"hard", "soft"} <= figures["history"][0].keys()
    assert {"accuracy_before", "accuracy_native", "agreement"} == figures["validation"].keys()
    if scheme is None:
        assert len(pruned.bert.encoder.layer) == 2
        assert pruned.bert.encoder.layer[0].intermediate.dense.out_features == 64
    labels = SoftLabels.load(done.output("compress_teacher") / "soft_labels.safetensors")
    assert figures["examples"] == len(labels) and torch.isfinite(labels.target).all()
    assert done.record("distil") is not None


def test_an_interrupted_recovery_goes_on_with_the_same_bits(tiny, tmp_path, monkeypatch):
    recipe, (a, b) = recipe_of(tiny), (tmp_path / "a", tmp_path / "b")
    a.mkdir()
    b.mkdir()
    wanted = run(recipe, a, until="compress_teacher")

    class Ended(training._Clock):
        def on_step(self, progress):
            if self.context.stage == "compress_teacher" and progress.step == 5:
                raise KeyboardInterrupt

    monkeypatch.setenv("KDNATIVE_STORE", str(b / "store"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_Clock", Ended)
        run(recipe, b, until="compress_teacher")
    found = run(recipe, b, until="compress_teacher", resume=True)
    assert "compress_teacher: continues from its last saved step" in (found.path / "log.txt").read_text()
    assert found.record("compress_teacher")["digest"] == wanted.record("compress_teacher")["digest"]


@pytest.mark.parametrize(
    ("prune", "words"),
    [
        (
            {"class_weights": [1.0, 2.0, 3.0]},
            r"compress_teacher\.prune\.class_weights: 3 values are given, but the data",
        ),
        (
            {"hidden_weight": 1.0, "layers": 2, "layer_map": {3: 3}},
            r"compress_teacher\.prune\.layer_map: the student has no position 3",
        ),
        ({"mask_tokens": 0.1}, r"compress_teacher\.prune\.mask_tokens: the tokenizer of .* has no mask token"),
    ],
)
def test_what_it_cannot_learn_with_is_refused_before_anything_runs(tiny, tmp_path, monkeypatch, prune, words):
    if "mask_tokens" in prune:
        without = SimpleNamespace(mask_token_id=None)
        monkeypatch.setattr(type(TEXTS), "tokenizer", lambda self, shared, source: without)
    with pytest.raises(PipelineError, match=words):
        run(recipe_of(tiny, prune={**PRUNE, **prune}), tmp_path)
    assert not (tmp_path / "runs").exists()


def test_the_teacher_is_back_on_the_cpu_before_it_is_cut(tiny, tmp_path, monkeypatch):
    """Predicting moves it to the recipe's device; the batches that importance is measured with are on the CPU."""
    calls = []

    class Cut(Exception):
        pass

    def cut(context, model, source):
        calls.append("cut")
        raise Cut

    original = torch.nn.Module.cpu
    monkeypatch.setattr(torch.nn.Module, "cpu", lambda model: calls.append("cpu") or original(model))
    monkeypatch.setattr(teacher, "predict", lambda *_, **__: calls.append("predict"))
    monkeypatch.setattr(teacher, "cut", cut)
    with pytest.raises(Cut):
        run(recipe_of(tiny), tmp_path, until="compress_teacher")
    assert calls[-3:] == ["predict", "cpu", "cut"]


def test_parts_that_the_teacher_lacks_are_refused_before_anything_runs(tiny, tmp_path):
    with pytest.raises(PipelineError, match=r"^compress_teacher\.prune\.layers: layers=4; the model has 3 layers"):
        run(recipe_of(tiny, prune={**PRUNE, "layers": 4}), tmp_path)
    assert not (tmp_path / "runs").exists()
