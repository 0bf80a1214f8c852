"""The gate in recipes: what it chooses, what the summary says, and a budget that can't be met."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

import kdnative
from kdnative.pipeline import PipelineError, RecipeError, RunFolder, check, load_recipe
from kdnative.pipeline.stages import Shared, gating
from kdnative.pipeline.state import RunState
from tests.pipeline.conftest import changed, write_recipe
from tests.pipeline.test_calibrate import METHOD, go_on

SCHEMES = ["w2a8-g32", "w4a8-g32", "w8a8"]


def gated(tiny: dict, schemes=SCHEMES, calibrate=METHOD, **gate) -> dict:
    return changed(tiny, calibrate=calibrate, recover=None, convert={"schemes": schemes, "gate": gate})


@pytest.fixture(scope="module")
def passed(finished, tiny, tmp_path_factory) -> RunFolder:
    """A whole run through a gate that allows half of the answers to change."""
    place = tmp_path_factory.mktemp("gated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNATIVE_STORE", str(place / "store"))
        return go_on(finished, gated(tiny, max_drop=0.5), place)


def test_the_student_is_the_one_that_the_gate_chose(passed):
    figures = passed.metrics("convert")
    gate = figures["gate"]
    assert [trial["passed"] for trial in gate["trials"]].count(True) >= 1
    assert gate["chosen_on"] + gate["certified_on"] == 16  # of the validation split
    chosen = set(gate["assignment"].values())
    assert chosen <= {*SCHEMES, "float"}
    files = {file.name for file in passed.output("calibrate").glob("*.safetensors")}
    assert files == {f"calibration-{scheme}.safetensors" for scheme in SCHEMES}
    model = kdnative.load(passed.output("prune") / "model")
    weights = {}
    for name, scheme in gate["assignment"].items():
        file = passed.output("calibrate") / f"calibration-{scheme}.safetensors"
        weights[name] = kdnative.quantize.Calibration.load(file)[name]
    kdnative.convert_(model, figures["schemes"], weights=weights)
    student = kdnative.load(passed.output("convert") / "model")
    ids = torch.tensor([[2, 6, 7, 8, 3]])
    with torch.no_grad():
        answers = [m(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for m in (student, model)]
    assert torch.equal(*answers)


def test_the_summary_says_what_the_gate_answered(passed):
    text = (passed.path / "summary.txt").read_text(encoding="utf-8")
    assert "gate: share of answers that changed" in text and "(allowed: 0.5)" in text and "of the weights in w" in text
    summary = json.loads((passed.path / "summary.json").read_text(encoding="utf-8"))
    assert summary["gate"]["certified_on"] == passed.metrics("convert")["gate"]["certified_on"]
    assert [step["stage"] for step in summary["steps"]] == ["distil", "prune", "calibrate", "convert"]
    assert any("by the gate: " in note for note in summary["notes"])


def test_a_budget_that_nothing_keeps_ends_the_stage_in_words(finished, tiny, tmp_path, monkeypatch):
    from kdnative.precision import bounds

    monkeypatch.setattr(bounds, "LEAST_OF_MEANS", 2)
    with pytest.raises(PipelineError, match=r"convert\.gate: "):
        go_on(finished, gated(tiny, metric="kl", max_drop=1e-12), tmp_path)
    run = RunFolder(tmp_path / "runs" / "tiny")
    assert run.record("calibrate") is not None and run.record("convert") is None
    assert not (run.partial("convert") / "model").exists() and not (run.path / "summary.json").exists()


def test_check_lists_it_and_refuses_what_few_examples_cannot_show(tiny, tmp_path):
    text = str(check(write_recipe(tmp_path / "r.yaml", gated(tiny, max_drop=0.3)), runs=tmp_path / "runs"))
    assert "  convert           gate: agreement may drop by 0.3\n" in text
    path = write_recipe(tmp_path / "r.yaml", gated(tiny, max_drop=0.01))
    with pytest.raises(PipelineError, match="can't be shown with 16 validation examples"):
        check(path, runs=tmp_path / "runs")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"convert": {"schemes": SCHEMES}}, "only a gate can choose among several schemes"),
        ({"convert": {"schemes": ["w8a8", "w4a8-g32"], "gate": {"max_drop": 0.1}}}, "in ascending order of bits"),
        ({"convert": {"schemes": [], "gate": {"max_drop": 0.1}}}, "give each scheme once"),
        ({"convert": {"gate": {}}}, "convert.gate.max_drop is missing"),
        ({"convert": {"gate": {"max_drop": -1}}}, "convert.gate.max_drop"),
        ({"convert": {"gate": {"max_drop": 0.1, "metrik": "kl"}}}, "did you mean 'metric'?"),
        ({"convert": {"gate": {"max_drop": 0.1, "metric": "cosine"}}}, "convert.gate.metric"),
        ({"convert": {"gate": {"max_drop": 0.1}}, "recover": {"schemes": "w8a8"}}, "set recover: null"),
        (
            {"convert": {"schemes": SCHEMES, "gate": {"max_drop": 0.1}}, "calibrate": None},
            "has w2a8-g32, but the recipe has neither",
        ),
        (
            {"convert": {"gate": {"max_drop": 0.1}}, "calibrate": None},
            "may choose w4a8-g64, and the recipe does not say how",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(tiny, tmp_path, sections, words):
    recipe = changed(tiny, **{"calibrate": METHOD, "recover": None, **sections})
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(tmp_path / "r.yaml", recipe))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "needed"),
    [
        ("agreement", 399),  # ln(0.05) / ln(0.99) = 298.07: 299, three quarters of the split
        ("accuracy", 491),  # half of the error for each side, ln(0.025) / ln(0.99) = 367.04: 368
        ("kl", 400),  # 300 certify
    ],
)
def test_each_metric_has_a_least_number_of_examples(tiny, tmp_path, metric, needed):
    path = write_recipe(tmp_path / "r.yaml", gated(tiny, metric=metric, max_drop=0.01))
    with pytest.raises(PipelineError, match=rf"convert\.gate: .*16 validation examples: .* needs about {needed}\. "):
        check(path, runs=tmp_path / "runs")


def test_a_metric_of_other_answers_is_refused_before_anything_runs(tiny, tmp_path):
    path = write_recipe(tmp_path / "r.yaml", gated(tiny, metric="mse", max_drop=0.3))
    with pytest.raises(PipelineError, match=r"convert\.gate: metric='mse' does not fit .* classes: use agreement"):
        check(path, runs=tmp_path / "runs")


def test_latencies_are_those_of_the_benchmark(tiny, tmp_path):
    recipe = gated(tiny, max_drop=0.3, minimise="ms")
    recipe["benchmark"] = {**recipe.get("benchmark", {}), "batch": 3, "tokens": 7}
    found = load_recipe(write_recipe(tmp_path / "r.yaml", recipe))
    assert gating._settings(found)["latency_rows"] == 21
    shared, stages = Shared(found), {stage.name: stage for stage in found.active_stages()}
    settings = RunState(found, RunFolder(tmp_path / "runs"), shared).origin(stages["convert"])["settings"]
    assert settings["benchmark"] == {"batch": 3, "tokens": 7}


def test_without_schemes_a_gate_chooses_among_those_of_the_api(tiny, tmp_path):
    recipe = gated(tiny, schemes=None, max_drop=0.3)
    assert load_recipe(write_recipe(tmp_path / "r.yaml", recipe)).schemes_to_convert() == ["w4a8-g64", "w8a8"]
    assert inspect.signature(kdnative.Gate.convert_).parameters["schemes"].default == ("w4a8-g64", "w8a8")


def test_a_share_of_one_is_no_budget(tiny, tmp_path):
    with pytest.raises(PipelineError, match=r"convert\.gate: max_drop=1"):
        check(write_recipe(tmp_path / "r.yaml", gated(tiny, max_drop=1.0)), runs=tmp_path / "runs")
