"""The stage `calibrate`: where its weights go, that it resumes, and what is refused before anything runs."""

from __future__ import annotations

import json

import pytest
import torch

import kdnative
from kdnative.pipeline import PipelineError, RecipeError, RunFolder, check, load_recipe
from kdnative.pipeline.models import load_tokenizer
from kdnative.quantize import Calibration, FakeQuantLinear
from tests.pipeline.conftest import changed, copy_of, write_recipe

METHOD = {"method": "gptq", "texts": 24, "batch_size": 8}
SCHEMES = {"*.attention.*": "w8a8", "*": "w4a8-g32"}


def coarse(tiny: dict, **sections) -> dict:
    return changed(tiny, **{"calibrate": METHOD, "recover": None, "convert": {"schemes": SCHEMES}, **sections})


def go_on(finished: RunFolder, recipe: dict, place, **options) -> RunFolder:
    """A run of another recipe on the outputs of a finished one."""
    run = copy_of(finished, place)
    path = write_recipe(place / "r.yaml", recipe)
    kdnative.run(path, runs=place / "runs", resume=True, restart_changed=True, progress=False, **options)
    return run


def calibration(run: RunFolder) -> Calibration:
    return Calibration.load(run.output("calibrate") / "calibration.safetensors")


@pytest.fixture(scope="module")
def calibrated(finished, tiny, tmp_path_factory) -> RunFolder:
    """One whole run with 4 bits and no training for them."""
    place = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNATIVE_STORE", str(place / "store"))
        return go_on(finished, coarse(tiny), place)


def test_convert_takes_the_calibrated_weights(calibrated):
    found = calibration(calibrated)
    model = kdnative.load(calibrated.output("prune") / "model")
    kdnative.convert_(model, SCHEMES, calibration=found)
    student = kdnative.load(calibrated.output("convert") / "model")
    ids = torch.tensor([[2, 6, 7, 8, 3]])
    with torch.no_grad():
        answers = [m(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for m in (student, model)]
    assert torch.equal(*answers)
    figures = calibrated.metrics("calibrate")
    assert {row["name"] for row in figures["layers"]} == set(found)
    assert all(row["error_after"] <= row["error_before"] * 1.001 for row in figures["layers"])


def test_the_calibration_is_that_of_the_training_texts(calibrated, tiny):
    """The same call in Python, on the texts that a hash chooses, gives the same bits."""
    recipe = load_recipe(calibrated.path / "recipe.yaml")
    data = kdnative.data.load_dataset(tiny["data"]["source"]).train.head(24)
    tokenizer = load_tokenizer(tiny["teacher"]["source"])
    batches = kdnative.data.Batches(kdnative.data.tokenize(data, tokenizer, recipe.data.max_length), 8)
    model = kdnative.load(calibrated.output("prune") / "model").eval()
    again = kdnative.quantize.calibrate_(model, SCHEMES, [b.inputs for b in batches], method="gptq")
    found = calibration(calibrated)
    assert again.keys() == found.keys()
    assert all(torch.equal(again[name].qweight, found[name].qweight) for name in found)


def test_the_summary_says_what_calibration_changed(calibrated):
    summary = json.loads((calibrated.path / "summary.json").read_text(encoding="utf-8"))
    steps = {step["stage"]: step for step in summary["steps"]}
    assert list(steps) == ["distil", "prune", "calibrate", "convert"]
    assert steps["calibrate"]["against"] == "the same conversion, rounded to nearest"
    assert steps["calibrate"]["n"] == summary["data"]["sizes"]["test"]
    assert "calibrate, against the same conversion" in (calibrated.path / "summary.txt").read_text(encoding="utf-8")


def test_recovery_starts_from_the_calibrated_weights(finished, tiny, tmp_path):
    """Nothing is trained, so the codes are those of the calibration."""
    recipe = changed(tiny, calibrate=METHOD, recover={"schemes": SCHEMES, "epochs": 0, "max_steps": None})
    run = go_on(finished, recipe, tmp_path, until="evaluate")
    found, student = calibration(run), kdnative.load(run.output("recover") / "model")
    trained = {name: m for name, m in student.named_modules() if isinstance(m, FakeQuantLinear)}
    assert trained.keys() == found.keys()
    for name, layer in trained.items():
        assert torch.equal(layer.quantized().qweight, found[name].qweight), name
    assert [step["kind"] for step in run.metrics("evaluate")["steps"]][2:] == ["calibrated", "trained", "converted"]


def test_a_killed_calibration_goes_on_with_the_same_bits(calibrated, finished, tiny, tmp_path, monkeypatch):
    from kdnative import quantize

    whole = quantize.calibrate_

    def killed(*arguments, **options):
        def until(name, done, of):
            if done >= of // 2:
                raise KeyboardInterrupt

        return whole(*arguments, **{**options, "progress": until})

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(quantize, "calibrate_", killed)
        go_on(finished, coarse(tiny), tmp_path, until="calibrate")
    run = RunFolder(tmp_path / "runs" / "tiny")
    assert run.record("calibrate") is None and (run.partial("calibrate") / "calibration.state").is_dir()
    kdnative.run(tmp_path / "r.yaml", runs=tmp_path / "runs", resume=True, until="calibrate", progress=False)
    assert run.record("calibrate")["digest"] == calibrated.record("calibrate")["digest"]
    assert not (run.output("calibrate") / "calibration.state").exists()


def test_the_store_has_it(calibrated, finished, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("KDNATIVE_STORE", str(calibrated.path.parent.parent / "store"))
    run = go_on(finished, coarse(tiny), tmp_path, until="calibrate")
    assert "calibrate: taken from the store" in (run.path / "log.txt").read_text(encoding="utf-8")


def test_a_calibrated_teacher_labels_the_data(finished, tiny, tmp_path):
    recipe = changed(tiny, compress_teacher={"scheme": "w4a8-g32", "calibrate": METHOD})
    run = go_on(finished, recipe, tmp_path, until="distil")
    found = Calibration.load(run.output("compress_teacher") / "calibration.safetensors")
    teacher = kdnative.load(run.output("train_teacher") / "model")
    kdnative.convert_(teacher, "w4a8-g32", calibration=found)
    labels = kdnative.load(run.output("compress_teacher") / "model")
    ids = torch.tensor([[2, 6, 7, 8, 3]])
    with torch.no_grad():
        answers = [m(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for m in (teacher, labels)]
    assert torch.equal(*answers)


def test_check_lists_it(tiny, tmp_path):
    text = str(check(write_recipe(tmp_path / "r.yaml", coarse(tiny)), runs=tmp_path / "runs"))
    assert "  calibrate         gptq, 24 training texts\n" in text


def test_groups_that_do_not_divide_a_width_are_refused_before_anything_runs(tiny, tmp_path):
    path = write_recipe(tmp_path / "r.yaml", coarse(tiny, convert={"schemes": {"*.dense": "w4a8-g128"}}))
    with pytest.raises(PipelineError, match=r"convert\.schemes: .*128"):
        check(path, runs=tmp_path / "runs")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"calibrate": {"methd": "gptq"}}, "unknown key 'methd' in calibrate; did you mean 'method'?"),
        ({"calibrate": {"method": "gpqt"}}, "calibrate.method: unknown method 'gpqt'; did you mean 'gptq'?"),
        ({"calibrate": {"texts": 0}}, "calibrate.texts"),
        (
            {"calibrate": None, "convert": {"schemes": "w2a8-g32"}},
            "convert.schemes has w2a8-g32, but the recipe has neither",
        ),
        (
            {"calibrate": METHOD, "convert": {"schemes": "w8a8", "clip_search": True}},
            "calibrate already rounds the weights",
        ),
        ({"recover": {"schemes": "w4a8-g32"}}, "but recover trains the student for 'w4a8-g32'"),
        (  # with `calibrate` and without: the same words, so that neither sends to the other
            {"recover": {"schemes": "w8a8"}, "calibrate": None, "convert": {"schemes": "w2a8-g32"}},
            "move convert.schemes to recover.schemes, or set recover: null and calibrate: {}",
        ),
        (
            {"recover": {"schemes": "w8a8"}, "convert": {"schemes": "w2a8-g32"}},
            "move convert.schemes to recover.schemes, or set recover: null and calibrate: {}",
        ),
        ({"calibrate": {"method": "awq"}, "convert": {"schemes": {"*": "w8a8+4x1"}}}, "calibrate.method is 'awq'"),
        (
            {"compress_teacher": {"scheme": "w8a8+4x1", "calibrate": {"method": "smoothquant"}}},
            "the sparse scheme w8a8+4x1 can't store input scales",
        ),
        ({"compress_teacher": {"scheme": None, "calibrate": {}}}, "nothing is quantized, but calibrate is given"),
        (
            {"recover": {"schemes": "w2a8-g32", "ternary": "group"}, "convert": {"schemes": None}},
            "leave calibrate.method out",
        ),
        ({"calibrate": None, "recover": {"schemes": "w8a8", "ternary": "group"}}, "no scheme has 2 bits"),
        ({"compress_teacher": {"scheme": "w2a8-g32"}}, "scheme is w2a8-g32, but calibrate is missing"),
    ],
)
def test_what_contradicts_itself_is_refused(tiny, tmp_path, sections, words):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(tmp_path / "r.yaml", coarse(tiny, **sections)))
    assert words in str(caught.value)


def test_two_bits_that_are_rounded_on_purpose(tiny, tmp_path):
    for sections in (
        {"calibrate": {"method": "rtn"}},
        {"calibrate": None, "convert": {"schemes": "w2a8-g32", "clip_search": True}},
        {"calibrate": None, "recover": {"schemes": "w2a8-g32"}, "convert": {"schemes": None}},
    ):
        recipe = coarse(tiny, **{"convert": {"schemes": "w2a8-g32"}, **sections})
        assert "w2a8-g32" in str(load_recipe(write_recipe(tmp_path / "r.yaml", recipe)).final_schemes())


def test_recovery_within_the_native_model(finished, tiny, tmp_path):
    """Ternary weights that learn their steps, in the forward of the model that `convert` makes."""
    short = {"epochs": 1, "max_steps": 2, "amp": False}
    settings = {"schemes": "w2a8-g32", "clip": "learn", "ternary": "channel", "forward": "native", **short}
    calibrate = {"texts": 24, "batch_size": 8}
    run = go_on(finished, changed(tiny, calibrate=calibrate, recover=settings), tmp_path, until="evaluate")
    assert run.metrics("calibrate")["method"] == "ternary"
    student = kdnative.load(run.output("recover") / "model")
    layers = [m for m in student.modules() if isinstance(m, FakeQuantLinear)]
    assert layers and all(set(layer.quantized().qweight.unique().tolist()) <= {-1, 0, 1} for layer in layers)
    assert all(isinstance(layer.scale, torch.nn.Parameter) for layer in layers)
    assert run.metrics("recover")["steps"] == 2


def test_recovery_keeps_the_epoch_that_is_closest_to_the_teacher(finished, tiny, tmp_path):
    run = go_on(finished, changed(tiny, recover={"epochs": 2, "max_steps": None}), tmp_path, until="recover")
    history = run.metrics("recover")["history"]
    distances = [epoch["validation_kl"] for epoch in history]
    assert run.metrics("recover")["best_epoch"] == distances.index(min(distances))
