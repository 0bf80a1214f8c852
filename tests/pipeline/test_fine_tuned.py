"""A teacher that is fine-tuned already: loaded and checked, never trained; refused where its head does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kdnative
from kdnative.pipeline import PipelineError, RecipeError, RunFolder
from kdnative.pipeline.models import load_tokenizer
from tests.pipeline.conftest import changed, write_recipe


@pytest.fixture(scope="module")
def teacher(tiny, finished, tmp_path_factory) -> Path:
    """The teacher of the finished run, as a folder of transformers; its rows are positive first."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    model = kdnative.load(finished.output("train_teacher") / "model")
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight.flip(0))
        model.classifier.bias.copy_(model.classifier.bias.flip(0))
    model.config.id2label, model.config.label2id = {0: "Positive", 1: "Negative"}, {"Positive": 0, "Negative": 1}
    model.save_pretrained(folder)
    load_tokenizer(tiny["teacher"]["source"]).save_pretrained(folder)
    return folder


def recipe_with(tiny: dict, source: Path, **sections) -> dict:
    plain = {key: value for key, value in tiny.items() if key != "train_teacher"}
    return changed(plain, teacher={"source": str(source), "fine_tuned": True}, **sections)


def run(recipe: dict, place: Path, until: str = "train_teacher") -> RunFolder:
    path = write_recipe(place / "r.yaml", recipe)
    return RunFolder(kdnative.run(path, runs=place / "runs", progress=False, until=until))


def test_its_weights_stay_and_its_rows_follow_the_names(tiny, finished, teacher, tmp_path):
    found = run(recipe_with(tiny, teacher), tmp_path, until="compress_teacher")
    before, after = (kdnative.load(folder.output("train_teacher") / "model") for folder in (finished, found))
    for (name, a), (other, b) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b)
    metrics, history = found.metrics("train_teacher"), finished.metrics("train_teacher")["history"]
    assert (metrics["steps"], metrics["history"], metrics["best_epoch"]) == (0, [], None)
    best = max(point["validation_accuracy"] for point in history)
    assert metrics["validation"]["accuracy"] == pytest.approx(best)
    log = (found.path / "log.txt").read_text(encoding="utf-8")
    assert "train_teacher: the teacher is already fine-tuned and is not trained; validation accuracy" in log


def test_a_head_for_other_classes_is_refused_before_a_folder_is_made(tiny, teacher, tmp_path):
    data = tmp_path / "data.tsv"
    data.write_text("text\tlabel\n" + "".join(f"good {i}\t{'abc'[i % 3]}\n" for i in range(60)), encoding="utf-8")
    with pytest.raises(PipelineError) as caught:
        run(recipe_with(tiny, teacher, data={"source": str(data)}), tmp_path)
    text = str(caught.value)
    assert (
        "its head is for the classes Positive, Negative, the data's are a, b, c" in text and "Leave fine_tuned" in text
    )
    assert not (tmp_path / "runs").exists()


def test_a_model_without_a_head_is_refused(tiny, tmp_path):
    """The base model says LABEL_0 and LABEL_1 as if it had one: only its weights tell."""
    with pytest.raises(PipelineError, match="no weights that fit classifier.bias, classifier.weight. Leave fine_tuned"):
        run(recipe_with(tiny, Path(tiny["teacher"]["source"])), tmp_path)


def test_a_head_of_classes_has_no_number(tiny, teacher, tmp_path):
    data = tmp_path / "data.tsv"
    data.write_text("text\tlabel\n" + "".join(f"good {i}\t{i / 7:.3f}\n" for i in range(60)), encoding="utf-8")
    with pytest.raises(PipelineError, match="its head has 2 outputs, but regression needs one"):
        run(recipe_with(tiny, teacher, task="text-regression", data={"source": str(data)}), tmp_path)


def test_it_can_be_calibrated(tiny, finished, teacher, tmp_path):
    """The head is the teacher's, divided by the temperature: the same answers, and a likelier confidence."""
    found = run(recipe_with(tiny, teacher, train_teacher={"fit_temperature": True}), tmp_path)
    before, after = (kdnative.load(folder.output("train_teacher") / "model") for folder in (finished, found))
    figures = found.metrics("train_teacher")["calibration"]
    torch.testing.assert_close(after.classifier.weight * figures["temperature"], before.classifier.weight)
    torch.testing.assert_close(after.classifier.bias * figures["temperature"], before.classifier.bias)
    assert torch.equal(before.bert.embeddings.word_embeddings.weight, after.bert.embeddings.word_embeddings.weight)
    assert figures["loss_after"] <= figures["loss_before"] and {"ece_before", "ece_after"} <= figures.keys()
    assert "train_teacher: temperature" in (found.path / "log.txt").read_text(encoding="utf-8")


def test_settings_of_a_training_that_does_not_happen_are_refused(tiny, teacher, tmp_path):
    recipe = recipe_with(tiny, teacher, train_teacher={"epochs": 5})
    with pytest.raises(RecipeError, match=r"train_teacher.epochs is 5, but teacher.fine_tuned is true"):
        run(recipe, tmp_path)
    run(recipe_with(tiny, teacher, train_teacher={"epochs": 3}), tmp_path)  # the default, as in a recipe written out
