"""`kdnative run --check`: what it counts, and that it writes nothing."""

from __future__ import annotations

import json
import math

import pytest

from kdnative.cli import main
from kdnative.data import DataError
from kdnative.pipeline import PipelineError, check
from tests.pipeline.conftest import changed, sentences, write_recipe


def test_sizes_and_steps(tiny, tmp_path):
    path = write_recipe(tmp_path / "r.yaml", changed(tiny, distil={"max_steps": None, "epochs": 7, "batch_size": 10}))
    found = check(path, runs=tmp_path / "runs")
    train = len(found.data.train)
    assert found.steps["distil"] == (7, 7 * math.ceil(train / 10))
    assert found.steps["train_teacher"] == (5, 5 * math.ceil(train / 16))
    assert found.steps["prune"] == (1, 2), "max_steps ends it"
    assert 0 < found.parameters["student"] < found.parameters["teacher"]
    total = sum(steps for _, steps in found.steps.values())
    text = str(found)
    assert f"{train:,} /" in text and f"in all {total:,} optimizer steps" in text and "2 classes: 'negative'" in text
    assert not (tmp_path / "runs").exists() and not (tmp_path / "store").exists()


def test_stages_that_are_left_out_and_settings_of_the_command_line(tiny, tmp_path):
    path = write_recipe(tmp_path / "r.yaml", tiny)
    found = check(path, overrides=["prune=null", "train_teacher.epochs=0"], runs=tmp_path)
    assert "prune" not in found.steps and found.steps["train_teacher"] == (0, 0)


def test_a_run_of_that_name_is_mentioned(tiny, tmp_path, finished):
    found = check(write_recipe(tmp_path / "r.yaml", tiny), runs=finished.path.parent)
    assert any("--resume, --overwrite or another name" in note for note in found.notes)


@pytest.mark.parametrize(
    ("sections", "error", "words"),
    [
        ({"data": {"source": "absent.csv"}}, DataError, "no such file"),
        ({"data": {"max_length": 65}}, PipelineError, "data.max_length is 65"),
        ({"teacher": {"source": "absent"}}, PipelineError, "there is no such folder"),
        ({"student": {"layers": [0, 9]}}, PipelineError, "student.layers"),
        ({"device": "cuda"}, PipelineError, "no CUDA device"),
    ],
)
def test_what_a_run_would_refuse(tiny, tmp_path, monkeypatch, sections, error, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(error, match=words):
        check(write_recipe(tmp_path / "r.yaml", changed(tiny, **sections)), runs=tmp_path)


def test_nothing_is_fetched_unless_asked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("KDNATIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("kdnative.data.packages._installed_minilm", lambda: None)
    monkeypatch.setattr("kdnative.data.packages.fetch", lambda *_: pytest.fail("it fetched a model"))
    path = write_recipe(tmp_path / "r.yaml", changed(tiny, teacher={"source": "package:minilm-l6"}))
    found = check(path, runs=tmp_path, fetch=False)
    assert found.parameters == {} and "package:minilm-l6: size unknown" in str(found)


def test_on_the_command_line(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_recipe(tmp_path / "r.yaml", tiny)
    assert main(["run", str(path), "--check", "--set", "name=other"]) == 0
    assert "recipe other: text-classification" in capsys.readouterr().out
    assert main(["run", str(path), "--check", "--seeds", "0,1"]) == 1
    assert "leave out --seeds" in capsys.readouterr().err
    assert main(["run", str(path), "--check", "--set", "data.label=nothing"]) == 1
    assert "'nothing' is missing" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("task", "label", "words"),
    [
        ("text-classification", ["a", "b"], "the label must be a string, an integer or a boolean, not ['a', 'b']"),
        ("text-classification", 3.5, "the label must be a string, an integer or a boolean, not 3.5"),
        ("text-regression", "much", "the label must be a finite number, not 'much'"),
    ],
)
def test_data_of_another_task_is_refused_with_what_recipes_serve(tiny, tmp_path, task, label, words):
    data = tmp_path / "a.jsonl"
    data.write_text("".join(json.dumps({"text": f"t {i}", "label": label}) + "\n" for i in range(9)), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        check(write_recipe(tmp_path / "r.yaml", changed(tiny, task=task, data={"source": str(data)})))
    text = str(caught.value)
    assert words in text and f"The task is {task}. Recipes train models that predict one class or one number" in text


def test_stages_without_a_teacher_learn_from_what_has_a_label(tiny, tmp_path):
    lines = [f"{text}\t{label if i % 4 == 0 else ''}\n" for i, (text, label) in enumerate(sentences(160, 1))]
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(lines), encoding="utf-8")
    data = {"source": str(tmp_path / "a.tsv"), "unlabelled": "keep"}
    long = {"max_steps": None, "epochs": 1}
    distil = {**long, "hidden_weight": 0}
    recipe = changed(tiny, data=data, distil=distil, train_baseline={**long, "accumulate": 2})
    path = write_recipe(tmp_path / "r.yaml", recipe)
    found = check(path, runs=tmp_path / "runs")
    labelled, texts = found.data.train.labelled, len(found.data.train)
    assert labelled < texts / 2
    assert found.steps["distil"] == (1, math.ceil(texts / 16))
    assert found.steps["train_baseline"] == (1, math.ceil(math.ceil(labelled / 16) / 2))
