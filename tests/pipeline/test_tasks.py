"""Every task from data to native student, on the miniature."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import pytest
import torch

import kdnative
from kdnative.pipeline import PipelineError, RecipeError, RunFolder, load_recipe
from kdnative.pipeline.stages import Context, Shared, pruning
from kdnative.tasks import TASKS
from tests.pipeline.conftest import BAD, GOOD, OTHER, changed, sentences, write_model, write_recipe

SHORT = {"train_baseline": None, "evaluate": {"sensitivity": 8}}


def rating(text: str) -> float:
    """The place of the one rated word among all of them, from -0.9 to 0.9."""
    word = next(w for w in text.split() if w in GOOD + BAD)
    return (BAD + GOOD).index(word) / 5 - 0.9


def write_ratings(path: Path, count: int = 200, known: int = 1) -> Path:
    """Sentences with the rating of their word; of those not divisible by `known`, nobody knows it."""
    lines = [f"{text}\t{rating(text) if i % known == 0 else ''}\n" for i, (text, _) in enumerate(sentences(count, 1))]
    path.write_text("text\tlabel\n" + "".join(lines), encoding="utf-8")
    return path


def write_pairs(path: Path, count: int = 240) -> Path:
    """Pairs of sentences: is the first one better, and by how much?"""
    rng = random.Random(2)
    lines = ["first\tsecond\tbetter\tby\n"]
    for number in range(count):
        texts = []
        for _ in range(2):
            words = [rng.choice(OTHER) for _ in range(3)] + [rng.choice(GOOD + BAD)]
            rng.shuffle(words)
            texts.append(" ".join([*words, str(number)]))
        by = rating(texts[0]) - rating(texts[1])
        lines.append("\t".join([*texts, "yes" if by > 0 else "no", f"{by:.3f}"]) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def run(recipe: dict, place: Path, **options) -> RunFolder:
    path = write_recipe(place / "r.yaml", recipe)
    return RunFolder(kdnative.run(path, runs=place / "runs", progress=False, **options))


def summary_of(run: RunFolder) -> dict:
    return json.loads((run.path / "summary.json").read_text(encoding="utf-8"))


def test_regression_of_texts_labelled_in_part(tiny, tmp_path):
    data = write_ratings(tmp_path / "data.tsv", 300, known=2)
    section = {"source": str(data), "unlabelled": "keep"}
    recipe = changed(tiny, task="text-regression", data=section, train_teacher={"epochs": 12}, **SHORT)
    recipe["goals"] = {"kept": 0.2}
    done = run(recipe, tmp_path)
    summary = summary_of(done)
    assert summary["task"]["name"] == "text-regression" and summary["data"]["counts"]["train"]["without a label"] == 150
    rows = {row["key"]: row for row in summary["rows"]}
    assert list(rows) == ["teacher", "distilled", "pruned", "native"]
    for row in rows.values():
        for key in ("pearson", "spearman"):
            assert -1 <= row[key]["low"] <= row[key]["value"] <= row[key]["high"] <= 1
        assert row["rmse"]["value"] > 0 and "accuracy" not in row
    assert rows["teacher"]["pearson"]["value"] > 0.5 and rows["teacher"]["agreement"]["value"] == pytest.approx(1.0)
    kept = rows["native"]["pearson"]["value"] / rows["teacher"]["pearson"]["value"]
    assert rows["native"]["kept"]["value"] == pytest.approx(kept)
    assert [step["stage"] for step in summary["steps"]] == ["prune", "recover", "convert"], "without a baseline"
    assert summary["data"]["sizes"]["unlabelled"] == 150 and summary["examples"]
    text = (done.path / "summary.txt").read_text(encoding="utf-8")
    assert "Pearson [95 %]" in text and "Spearman" in text and "teacher's Pearson correlation" in text
    assert "validation Pearson correlation" in (done.path / "report.html").read_text(encoding="utf-8")
    assert "validation_pearson" in done.metrics("distil")["history"][0]
    assert {"drop", "divergence"} <= done.metrics("evaluate")["sensitivity"][0].keys()
    student = kdnative.load(done.output("convert") / "model")
    assert any(type(m).__name__ == "Encoder" for m in student.modules()) and student.config.problem_type == "regression"


def test_importance_is_measured_on_labelled_examples_alone(tiny, tmp_path):
    data = {"source": str(write_ratings(tmp_path / "data.tsv", 100, known=4)), "unlabelled": "keep"}
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml", changed(tiny, task="text-regression", data=data)))
    shared = Shared(recipe)
    place = RunFolder(tmp_path / "run")
    context = Context(recipe, place, "prune", tmp_path, "cpu", logging.getLogger(), False, shared)
    batches = pruning._calibration(context, recipe.student_source, count=16, size=8)
    assert batches and not any(batch.labels.isnan().any() for batch in batches)
    assert 0 < sum(map(len, batches)) <= shared.data.train.labelled < len(shared.data.train)


def test_pairs_of_two_classes(tiny, tmp_path):
    data = {"source": str(write_pairs(tmp_path / "d.tsv")), "text": "first", "text_pair": "second", "label": "better"}
    recipe = changed(tiny, task="sentence-pair-classification", data=data, train_teacher={"epochs": 3}, **SHORT)
    done = run(recipe, tmp_path)
    rows = {row["key"]: row for row in summary_of(done)["rows"]}
    assert 0 <= rows["native"]["accuracy"]["low"] <= rows["native"]["accuracy"]["high"] <= 1
    student = kdnative.load(done.output("convert") / "model")
    ids = torch.tensor([[2, 6, 7, 3, 8, 9, 3]])
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        answers = [
            student(input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=t).logits
            for t in (types, torch.zeros_like(types))
        ]
    assert not torch.equal(*answers), "the native student reads which text a token is of"


def test_differences_of_pairs_from_another_models_teacher(tiny, tmp_path):
    """The student numbers its vocabulary differently, and the teacher's hidden states are asked for."""
    student = write_model(tmp_path / "student", layers=2, width=32, backwards=True)
    data = {"source": str(write_pairs(tmp_path / "d.tsv")), "text": "first", "text_pair": "second", "label": "by"}
    recipe = changed(
        tiny,
        task="sentence-pair-regression",
        data=data,
        student={"source": str(student), "layers": None},
        train_teacher={"epochs": 2},
        train_baseline=None,
        prune=None,
        recover=None,
    )
    done = run(recipe, tmp_path, until="evaluate")
    rows = done.metrics("evaluate")["rows"]
    assert list(rows) == ["teacher", "distilled", "native"] and "spearman" in rows["native"]
    assert done.metrics("distil")["history"][0]["hidden"] > 0


def test_the_head_of_a_regression_begins_at_the_mean(tiny, tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text("text\tlabel\n" + "".join(f"good {i}\t{100 + i % 3}\n" for i in range(60)), encoding="utf-8")
    recipe = changed(tiny, task="text-regression", data={"source": str(path)}, train_teacher={"epochs": 0})
    done = run(recipe, tmp_path, until="train_teacher")
    model = kdnative.load(done.output("train_teacher") / "model")
    assert model.classifier.bias.item() == pytest.approx(101, abs=0.3)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"task": "text-regresion"},
            "task: there is no task 'text-regresion'; there are text-classification, text-reg",
        ),
        ({"data": {"text_pair": "b"}}, "data.text_pair is given, but the task text-classification reads one text"),
        (
            {"task": "text-regression", "distil": {"label_smoothing": 0.1}},
            "distil.label_smoothing is 0.1, but a regression task has no classes: leave it out",
        ),
        (
            {"task": "text-regression", "compress_teacher": {"top_k": 3}},
            "compress_teacher.top_k is 3, but a regression task has no classes",
        ),
        (
            {"task": "text-regression", "distil": {"soft_loss": "dkd"}},
            "distil.soft_loss is 'dkd', but a regression task has no classes",
        ),
        (
            {"prune": {"macs": 0.5}},
            "prune.macs is 0.5, but it is for convolutional networks",
        ),
        (
            {"task": "sentence-pair-regression", "train_teacher": {"class_weights": "balanced"}},
            "train_teacher.class_weights is 'balanced', but a regression task has no classes",
        ),
    ],
)
def test_what_means_nothing_to_a_task(tiny, tmp_path, sections, words):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(tmp_path / "r.yaml", changed(tiny, **sections)))
    assert words in str(caught.value)


def test_another_task_makes_every_stage_again(finished, tiny, tmp_path):
    path = write_recipe(tmp_path / "r.yaml", changed(tiny, task="text-regression", data={"label": "label"}))
    with pytest.raises((PipelineError, ValueError), match="the label must be a finite number"):
        kdnative.run(path, runs=finished.path.parent, resume=True, progress=False)


def test_every_task_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in TASKS)
