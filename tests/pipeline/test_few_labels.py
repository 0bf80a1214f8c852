"""Few labels, further texts, and a student that is cut before it learns."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import kdnative
from kdnative.distill import SoftLabels
from kdnative.nn import Encoder
from kdnative.pipeline import PipelineError, RecipeError, RunFolder, load_recipe
from tests.pipeline.conftest import changed, sentences, write_recipe

HEADS, FFN = [2, 1, 1], [128, 64, 64]


def run(recipe: dict, place: Path, **options) -> RunFolder:
    path = write_recipe(place / "r.yaml", recipe)
    return RunFolder(kdnative.run(path, runs=place / "runs", progress=False, **options))


def few(tiny: dict, place: Path, **data) -> dict:
    (place / "more.txt").write_text("".join(f"{text}\n" for text, _ in sentences(40, 7)))
    section = {"labelled": 40, "unlabelled_files": [str(place / "more.txt")], **data}
    recipe = changed(tiny, data=section, student={"layers": None, "heads": HEADS, "ffn": FFN}, train_baseline={})
    recipe["train_teacher"].update(epochs=2)
    recipe["train_baseline"].update(epochs=3, max_steps=None)
    return {**recipe, "prune": None, "recover": None}


def shapes(model: torch.nn.Module) -> list[tuple[int, int]]:
    """Columns of attention and of the feed-forward part of every layer."""
    layers = model.bert.encoder.layer
    return [(layer.attention.self.query.out_features, layer.intermediate.dense.out_features) for layer in layers]


def test_a_teacher_that_is_pruned_with_hard_labels_alone_learns_from_labelled_texts(tiny, tmp_path):
    prune = {"heads": 0.5, "epochs": 1, "batch_size": 16, "hidden_weight": 0}
    for soft_weight in (0, 1):
        recipe = changed(few(tiny, tmp_path), compress_teacher={"prune": {**prune, "soft_weight": soft_weight}})
        done = run(recipe, tmp_path, until="compress_teacher", overwrite=True)
        texts = done.metrics("compress_teacher")["examples"] if soft_weight else 40
        assert done.metrics("compress_teacher")["steps"] == math.ceil(texts / 16)


def test_the_teacher_has_few_labels_and_the_student_all_texts(tiny, tmp_path):
    done = run(few(tiny, tmp_path), tmp_path)
    teacher = done.metrics("train_teacher")
    sizes = teacher["data"]
    assert sizes["labelled"] == 40 and sizes["unlabelled"] > 80
    assert teacher["steps"] == 2 * math.ceil(40 / 16), "an epoch is of labelled texts"
    assert done.metrics("train_baseline")["steps"] == 3 * math.ceil(40 / 16)
    labels = SoftLabels.load(done.output("compress_teacher") / "soft_labels.safetensors")
    assert len(labels) == sizes["labelled"] + sizes["unlabelled"]
    summary = json.loads((done.path / "summary.json").read_text(encoding="utf-8"))
    assert summary["data"]["sizes"] == sizes
    log = (done.path / "log.txt").read_text(encoding="utf-8")
    assert f"data: 40 training texts with a label and {sizes['unlabelled']} without, {sizes['validation']} for" in log
    assert "more.txt: 40 texts without a label are added to the training split" in log

    for stage in ("train_baseline", "distil"):  # compared are two students of one shape
        student = kdnative.load(done.output(stage) / "model")
        assert shapes(student) == [(64, 128), (32, 64), (32, 64)]
    native = kdnative.load(done.output("convert") / "model")
    assert any(isinstance(module, Encoder) for module in native.modules())


def test_a_student_of_its_own_is_cut_too(tiny, tmp_path):
    recipe = few(tiny, tmp_path)
    recipe["student"]["source"] = recipe["teacher"]["source"]
    done = run(recipe, tmp_path, until="distil")
    assert shapes(kdnative.load(done.output("distil") / "model")) == [(64, 128), (32, 64), (32, 64)]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"student": {"heads": [2, 2]}}, r"^student\.heads: heads=\[2, 2\] has 2 numbers, but there are 3 layers"),
        ({"student": {"layers": [0, 2], "heads": 0.0}}, r"^student\.ffn: .* has 3 numbers, but there are 2 layers"),
        ({"student": {"ffn": [128, 100, 64]}}, r"^student\.ffn: .*layer 1 would keep 100 neurons"),
        ({"student": {"heads": [2, 3, 1]}}, r"^student\.heads: .*layer 1 has 2 heads, so it can't keep 3"),
        (
            {"student": {"layers": 2, "heads": 0.0, "ffn": 0.5}, "prune": {"ffn": [128, 64]}},
            r"^prune\.ffn: ffn=\[128, 64\]: layer 0 has 64 neurons",
        ),
        ({"compress_teacher": {"prune": {"ffn": [64]}}}, r"^compress_teacher\.prune\.ffn: .* 1 numbers"),
        ({"data": {"labelled": 1000}}, r"labelled=1,000 \(data\.labelled in a recipe\), but only \d+ training"),
        ({"data": {"unlabelled_files": ["absent.txt"]}}, r"absent\.txt: no such file"),
    ],
)
def test_refused_before_any_stage(tiny, tmp_path, sections, words):
    recipe = changed(few(tiny, tmp_path), **sections)
    with pytest.raises((PipelineError, kdnative.data.DataError), match=words):
        run(recipe, tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", [2, [], [4, 0], [4, 2.0], [4, True], [4, "x"], -0.1, True, "half", None])
def test_neither_a_share_nor_numbers(tiny, tmp_path, value):
    path = write_recipe(tmp_path / "r.yaml", changed(tiny, student={"heads": value}))
    with pytest.raises(RecipeError, match=r"^r\.yaml line \d+: student\.heads: give the share to remove .* got"):
        load_recipe(path)
