"""A run ends with a student's folder: the model, its tokenizer, a card."""

from __future__ import annotations

import json
import os

import pytest
import torch

import kdnative
from kdnative.cli import main
from kdnative.pipeline.folder import file_digests
from kdnative.report.card import closing
from tests.pipeline.conftest import copy_of, write_recipe


def test_the_folder_is_the_converted_student_with_a_card(finished):
    student, model = finished.path / "student", finished.output("convert") / "model"
    made = file_digests(student)
    card = (student / "README.md").read_text(encoding="utf-8")
    assert {name: made[name] for name in made if name != "README.md"} == file_digests(model)
    assert {"config.json", "kdnative.json", "tokenizer.json", "README.md"} <= made.keys()
    weights = next(student.glob("*.safetensors"))
    assert os.path.samefile(weights, model / weights.name)  # no second copy on the disk
    head, _, rest = card.removeprefix("---\n").partition("\n---\n")
    assert "pipeline_tag: text-classification" in head and "license:" not in head  # nobody knows it here
    summary = json.loads((finished.path / "summary.json").read_text())
    rows = {row["key"]: row["accuracy"] for row in summary["rows"]}
    for key in ("teacher", "baseline", "native"):
        assert f"{100 * rows[key]['value']:.1f} % [{100 * rows[key]['low']:.1f}, {100 * rows[key]['high']:.1f}]" in rest
    assert "whose licence is not known here" in rest and "`negative`, `positive`" in rest
    assert (finished.path / "recipe.yaml").read_text().strip() in rest


def test_pipeline_and_load_agree_bit_for_bit(finished):
    import transformers

    import kdnative.transformers  # noqa: F401

    folder = str(finished.path / "student")
    texts = ["a superb film 12", "the plot was dull 3"]
    rows = transformers.pipeline("text-classification", model=folder)(texts, top_k=None, batch_size=1)
    model, tokenizer = kdnative.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text, row in zip(texts, rows, strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt")).logits.numpy()[0]
        shifted = torch.from_numpy(logits - logits.max()).numpy()
        import numpy as np

        wanted = np.exp(shifted) / np.exp(shifted).sum()
        assert {r["label"]: r["score"] for r in row} == {
            model.config.id2label[i]: float(p) for i, p in enumerate(wanted)
        }


def test_the_command_and_the_report_say_how_to_use_it(finished, tiny, tmp_path, capsys):
    run = copy_of(finished, tmp_path)
    recipe = write_recipe(tmp_path / "tiny.yaml", tiny)
    assert main(["run", str(recipe), "--runs", str(run.path.parent), "--resume", "--quiet"]) == 0
    lines = closing(run.path / "student", "text-classification")
    assert capsys.readouterr().out.rstrip().endswith(lines)
    assert "kdnative predict" in (finished.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("missing", ["README.md", "."])
def test_a_student_that_was_deleted_comes_again(finished, tiny, tmp_path, missing):
    import shutil

    run = copy_of(finished, tmp_path)
    before = file_digests(run.path / "student")
    shutil.rmtree(run.path / "student") if missing == "." else (run.path / "student" / missing).unlink()
    recipe = write_recipe(tmp_path / "tiny.yaml", tiny)
    kdnative.run(recipe, runs=run.path.parent, resume=True, progress=False)
    after = file_digests(run.path / "student")
    assert after.keys() == before.keys()
    assert {k: v for k, v in after.items() if k != "README.md"} == {k: v for k, v in before.items() if k != "README.md"}


def test_a_discarded_stage_takes_the_student_with_it(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    run.discard("convert")
    assert not (run.path / "student").exists() and not list(run.path.glob("*student*"))
