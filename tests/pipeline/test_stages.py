"""The order of stages is written once: a stage that is added is a section, a folder, a student and a row."""

from __future__ import annotations

import json

import pytest
import torch

import kdnative
from kdnative.pipeline import RunFolder, load_recipe
from kdnative.pipeline.models import parameters
from kdnative.pipeline.sections import Section
from kdnative.pipeline.stages import Row, Stage, add_stage, recipe_class, remove_stage
from kdnative.pipeline.stages.training import load_model, save_model
from kdnative.pipeline.store import Store, store_path
from kdnative.pipeline.values import Fraction
from tests.pipeline.conftest import changed, write_recipe


class Shrink(Section):
    by: Fraction = 0.5


def shrink(context) -> dict:
    """Makes every weight of the head smaller."""
    model = load_model(context, context.recipe.student_before("shrink"))
    with torch.no_grad():
        model.classifier.weight.mul_(1 - context.settings.by)
    return {"parameters": parameters(model), "bytes": save_model(context, model, context.recipe.student_source)}


SHRINK = Stage(
    "shrink",
    shrink,
    section=Shrink,
    default=None,
    optional=True,
    needs=lambda recipe: (recipe.student_before("shrink"),),
    uses=("data", "teacher", "student"),
    student=True,
    row=Row("shrunk", "with a small head"),
)


@pytest.fixture
def with_shrink():
    add_stage(SHRINK, after="distil")
    yield
    remove_stage("shrink")


def test_an_added_stage_runs_in_its_place(with_shrink, tiny, tmp_path):
    recipe = changed(tiny, shrink={"by": 0.25}, train_teacher={"epochs": 1}, train_baseline=None, prune=None)
    run = RunFolder(kdnative.run(write_recipe(tmp_path / "r.yaml", recipe), runs=tmp_path / "runs", progress=False))
    heads = {s: kdnative.load(run.output(s) / "model").classifier.weight for s in ("distil", "shrink")}
    assert torch.equal(heads["shrink"], heads["distil"] * 0.75)
    assert run.origin("recover")["inputs"].keys() == {"train_teacher", "compress_teacher", "shrink"}
    assert run.origin("shrink")["settings"]["shrink"] == {"by": 0.25}
    rows = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))["rows"]
    assert [row["name"] for row in rows] == ["teacher", "distilled", "with a small head", "quantized, native"]
    assert "with a small head" in (run.path / "report.html").read_text(encoding="utf-8")
    kept = {entry.stage for entry in Store(store_path()).entries()}
    assert "distil" in kept and "shrink" not in kept, "its code has no version"


def test_a_recipe_that_leaves_it_out_is_as_without(with_shrink, tiny, tmp_path):
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml", tiny))
    assert recipe.student_before("prune") == "distil"
    assert "shrink" not in [stage.name for stage in recipe.active_stages()]


def test_names_and_places_are_checked():
    assert "shrink" not in recipe_class().model_fields
    with pytest.raises(ValueError, match="a stage named 'distil' already exists"):
        add_stage(Stage("distil", shrink, section=Shrink, default=None), after="prune")
    with pytest.raises(ValueError, match="a stage named 'goals' already exists"):
        add_stage(Stage("goals", shrink, section=Shrink, default=None), after="prune")
    with pytest.raises(ValueError, match="'shrink' can't follow 'dstil', because there is no such stage"):
        add_stage(SHRINK, after="dstil")
