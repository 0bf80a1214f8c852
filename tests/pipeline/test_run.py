"""The whole pipeline on a miniature: every stage, interruption by SIGKILL, changed recipes, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kdnative
from kdnative.data import DataError
from kdnative.distill.state import read_state, write_state
from kdnative.pipeline import PipelineError, RunFolder
from kdnative.quantize import FakeQuantLinear
from tests.pipeline.conftest import changed, copy_of, write_model, write_recipe

STAGES = ["train_teacher", "compress_teacher", "train_baseline", "distil", "prune", "recover", "convert"]


def digests(folder: RunFolder, stages=STAGES) -> dict[str, str]:
    return {stage: folder.record(stage)["digest"] for stage in stages}


def again(finished: RunFolder, recipe: dict, **options) -> Path:
    path = write_recipe(finished.path.parent.parent / "again.yaml", recipe)
    return kdnative.run(path, runs=finished.path.parent, progress=False, **options)


def test_every_stage_leaves_its_output(finished, tiny):
    assert [stage for stage in STAGES if not (finished.output(stage) / "stage.json").is_file()] == []
    assert not list(finished.stages.glob("*.partial"))
    assert not list(finished.path.rglob("training.state"))
    assert "distil: finished" in (finished.path / "log.txt").read_text(encoding="utf-8")
    assert kdnative.pipeline.load_recipe(finished.path / "recipe.yaml").name == "tiny"


def test_the_final_student_is_pruned_quantized_and_native(finished):
    student = kdnative.load(finished.output("convert") / "model")
    plain = kdnative.load(finished.output("recover") / "model")
    assert any(type(m).__name__ == "Encoder" for m in student.modules())
    feed_forward = plain.bert.encoder.layer[0].intermediate.dense
    assert isinstance(feed_forward, FakeQuantLinear) and str(feed_forward.scheme) == "w4a8-g64"
    assert feed_forward.out_features == 64 and len(plain.bert.encoder.layer) == 2
    ids = torch.tensor([[2, 6, 7, 8, 3]])
    with torch.no_grad():
        answers = [m(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for m in (student, plain)]
    assert torch.allclose(*answers, atol=0.1)


def test_summary_figures_are_those_of_the_models(finished):
    summary = json.loads((finished.path / "summary.json").read_text(encoding="utf-8"))
    rows = {row["key"]: row for row in summary["rows"]}
    assert list(rows) == ["teacher", "baseline", "distilled", "pruned", "native"]
    teacher = kdnative.load(finished.output("train_teacher") / "model")
    assert rows["teacher"]["parameters"] == sum(p.numel() for p in teacher.parameters())
    model = finished.output("convert") / "model"
    weights = json.loads((model / "kdnative.json").read_text(encoding="utf-8"))["weights"]["file"]
    assert rows["native"]["bytes"] == (model / weights).stat().st_size
    assert rows["native"]["bytes"] < rows["pruned"]["bytes"] < rows["teacher"]["bytes"]
    assert rows["teacher"]["agreement"]["value"] == 1.0 and rows["native"]["latency"]["native"]["p50"] > 0
    grid = {row["model"] for row in finished.metrics("benchmark")["latency"]}
    assert grid == {"teacher, torch fp32", "student, torch fp32", "student, torch bf16", "student, native"}
    met = [goal["met"] for goal in summary["goals"]]
    assert met[1] is False and met[2:] == [True, True]  # 1000 times smaller is out of reach
    assert [step["stage"] for step in summary["steps"]] == ["distil", "prune", "recover", "convert"]
    assert summary["steps"][1]["smaller"] == rows["distilled"]["bytes"] / rows["pruned"]["bytes"]
    assert summary["steps"][0]["seconds"] == finished.record("distil")["seconds"]
    assert "quantized, native" in (finished.path / "report.html").read_text(encoding="utf-8")
    assert "MISSED" in (finished.path / "summary.txt").read_text(encoding="utf-8")


def test_the_summary_says_what_each_step_changed_on_the_test_split(finished):
    """The differences are those of the accuracies, but for quantization-aware training, which is beside the table."""
    summary = json.loads((finished.path / "summary.json").read_text(encoding="utf-8"))
    accuracy = {row["key"]: row["accuracy"]["value"] for row in summary["rows"]}
    found = {step["stage"]: step["difference"]["value"] for step in summary["steps"]}
    for stage, before, after in (
        ("distil", "baseline", "distilled"),
        ("prune", "distilled", "pruned"),
        ("convert", "pruned", "native"),
    ):
        assert found[stage] == pytest.approx(accuracy[after] - accuracy[before])
    sizes = summary["data"]["sizes"]
    assert sum(sizes.values()) == 160 and sizes["unlabelled"] == 0 and sizes["test"] == summary["steps"][0]["n"]
    log = (finished.path / "log.txt").read_text(encoding="utf-8")
    assert "Did it help?" in log and "distil, against hard labels alone: " in log


def test_examples_are_texts_of_the_test_split_on_which_the_models_disagree(finished, tiny):
    summary = json.loads((finished.path / "summary.json").read_text(encoding="utf-8"))
    known = dict(line.split("\t") for line in Path(tiny["data"]["source"]).read_text(encoding="utf-8").splitlines())
    agreement = {row["key"]: row["agreement"]["value"] for row in summary["rows"]}["native"]
    assert len(summary["examples"]) == round((1 - agreement) * summary["data"]["sizes"]["test"])
    for example in summary["examples"]:
        (text,) = example["texts"]
        assert known[text] == example["label"]
        assert example["teacher"].split()[0] != example["student"].split()[0]


def test_killed_twice_then_resumed_gives_the_same_bits(finished, tiny, tmp_path):
    """SIGKILL in the teacher's training and again in the distillation; --resume ends with the uninterrupted result."""
    recipe = write_recipe(tmp_path / "tiny.yaml", tiny)
    runs = tmp_path / "runs"
    run = RunFolder(runs / "tiny")
    for stage, options in (("train_teacher", []), ("distil", ["--resume"])):
        _kill_in(stage, [str(recipe), "--runs", str(runs), "--quiet", *options])
        assert run.record(stage) is None and (run.partial(stage) / "training.state").is_file()
    kdnative.run(recipe, runs=runs, resume=True, progress=False, until="convert")
    log = (run.path / "log.txt").read_text(encoding="utf-8")
    assert "train_teacher: continues from its last saved step" in log and "distil: continues" in log
    assert digests(run) == digests(finished)


_KILLED = """
import os, signal, sys
from kdnative.cli import main
from kdnative.pipeline.stages import training

class Clock(training._Clock):
    def on_step(self, progress):
        if self.context.stage == sys.argv[1] and progress.step == 6:  # the state is that of step 4
            os.kill(os.getpid(), signal.SIGKILL)

training._Clock = Clock
main(["run", *sys.argv[2:]])
"""


def _kill_in(stage: str, arguments: list[str]) -> None:
    command = [sys.executable, "-c", _KILLED, stage, *arguments]
    end = subprocess.run(command, capture_output=True, text=True, check=False)
    assert end.returncode == -signal.SIGKILL, end.stderr


def test_a_failing_save_costs_no_training_and_no_time(finished, tiny, tmp_path, monkeypatch):
    """The disk is full when the teacher is saved; --resume has nothing to train again, and counts both attempts."""
    options = {"runs": tmp_path / "runs", "until": "train_teacher", "progress": False}
    recipe = write_recipe(tmp_path / "tiny.yaml", tiny)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(kdnative, "save", full)
        kdnative.run(recipe, **options)
    run = RunFolder(tmp_path / "runs" / "tiny")
    saved = run.partial("train_teacher") / "training.state"
    state = read_state(saved)
    assert state["history"]["steps"] == finished.metrics("train_teacher")["steps"]
    state["parts"]["callback 0"]["seconds"] += 1000
    write_state(saved, state)
    kdnative.run(recipe, resume=True, **options)
    assert digests(run, STAGES[:1]) == digests(finished, STAGES[:1])
    assert 1000 < run.record("train_teacher")["seconds"] < 1100


def test_a_second_run_needs_to_say_what_it_wants(finished, tiny):
    with pytest.raises(PipelineError, match="already holds a run: continue it with --resume"):
        again(finished, tiny)


def test_resuming_a_finished_run_does_nothing(finished, tiny):
    before = digests(finished), (finished.output("benchmark") / "metrics.json").read_bytes()
    again(finished, tiny, resume=True)
    assert before == (digests(finished), (finished.output("benchmark") / "metrics.json").read_bytes())


def test_a_call_that_runs_nothing_keeps_the_machine_of_the_run(finished, tiny, tmp_path):
    run = copy_of(finished, tmp_path)
    (run.path / "run.json").write_text('{"machine": "the one it ran on"}')
    kdnative.run(write_recipe(tmp_path / "r.yaml", tiny), runs=tmp_path / "runs", resume=True, progress=False)
    assert json.loads((run.path / "run.json").read_text()) == {"machine": "the one it ran on"}


def test_the_report_comes_back_after_a_stage_was_made_again(finished, tiny, tmp_path):
    """The stage ends with the same weights, so everything after it is kept, but the results were deleted with it."""
    run = copy_of(finished, tmp_path)
    options = {"runs": tmp_path / "runs", "progress": False}
    recipe = write_recipe(tmp_path / "r.yaml", tiny)
    kdnative.run(recipe, only="train_baseline", overwrite=True, **options)
    assert not (run.path / "summary.json").exists()
    kdnative.run(recipe, resume=True, **options)
    assert digests(run) == digests(finished)
    assert [n for n in ("summary.json", "summary.txt", "report.html") if not (run.path / n).is_file()] == []


def test_recipe_yaml_describes_the_stages_that_are_there(finished, tiny, tmp_path):
    run = copy_of(finished, tmp_path)
    before = (run.path / "recipe.yaml").read_text()
    recipe = write_recipe(tmp_path / "r.yaml", changed(tiny, distil={"temperature": 7.0}))
    kdnative.run(recipe, runs=tmp_path / "runs", only="train_teacher", progress=False)
    assert (run.path / "recipe.yaml").read_text() == before
    assert "recipe.yaml stays as it was: another recipe made distil and" in (run.path / "log.txt").read_text()
    shutil.rmtree(run.path)
    kdnative.run(recipe, runs=tmp_path / "runs", until="train_teacher", progress=False)
    assert "temperature: 7.0" in (run.path / "recipe.yaml").read_text()


def test_resume_notices_another_model_in_the_same_folder(tiny, tmp_path):
    model = write_model(tmp_path / "model", layers=3)
    recipe = changed(tiny, teacher={"source": str(model)}, train_teacher={"max_steps": 1})
    path = write_recipe(tmp_path / "r.yaml", recipe)
    options = {"runs": tmp_path / "runs", "until": "train_teacher", "progress": False}
    run = RunFolder(kdnative.run(path, **options))
    (model / "README.md").write_text("notes are no part of a model")
    kdnative.run(path, resume=True, **options)
    for name in ("model.safetensors", "vocab.txt"):
        content = (model / name).read_bytes()
        (model / name).write_bytes(content + b"\n")
        with pytest.raises(PipelineError, match="train_teacher: the model in .*model has changed"):
            kdnative.run(path, resume=True, **options)
        (model / name).write_bytes(content)
    shutil.rmtree(model)
    with pytest.raises(PipelineError, match="train_teacher: the model in .*model is missing"):
        kdnative.run(path, resume=True, **options)
    assert run.record("train_teacher") is not None


def test_a_students_own_model_is_noticed_too(tiny, tmp_path):
    recipe = kdnative.pipeline.load_recipe(
        write_recipe(tmp_path / "r.yaml", changed(tiny, student={"source": "hub:a/b", "layers": None}))
    )
    sources = {stage.name: stage.sources(recipe) for stage in recipe.active_stages()}
    own = {"train_teacher": (tiny["teacher"]["source"],), "train_baseline": ("hub:a/b",), "distil": ("hub:a/b",)}
    assert {name: found for name, found in sources.items() if found} == own


def test_resume_refuses_a_changed_recipe_in_words(finished, tiny):
    before = digests(finished)
    with pytest.raises(PipelineError) as caught:
        again(finished, changed(tiny, prune={"ffn": 0.25}), resume=True)
    text = str(caught.value)
    assert "prune: prune.ffn was 0.5, now 0.25" in text and "recover: was made from prune" in text
    assert "distil" not in text and "--restart-changed" in text
    assert digests(finished) == before


def test_resume_refuses_changed_data(finished, tiny, tmp_path):
    rows = Path(tiny["data"]["source"]).read_text(encoding="utf-8")
    other = tmp_path / "data.tsv"
    other.write_text(rows + "a lovely scene 999\tpositive\n", encoding="utf-8")
    with pytest.raises(PipelineError, match="train_teacher: the data changed; data.source was"):
        again(finished, changed(tiny, data={"source": str(other)}), resume=True)


def test_device_and_threads_may_change(finished, tiny, tmp_path):
    again(copy_of(finished, tmp_path), changed(tiny, threads=2, device="auto"), resume=True, until="convert")


def test_only_refuses_without_its_inputs(tiny, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", tiny)
    with pytest.raises(PipelineError, match="distil needs the output of train_teacher and compress_teacher"):
        kdnative.run(recipe, runs=tmp_path / "runs", only="distil", progress=False)
    assert not (tmp_path / "runs").exists()  # or the next plain run would be refused


def test_only_refuses_a_stale_input(finished, tiny):
    with pytest.raises(PipelineError, match="distil reads train_teacher, which no longer matches .*lr was"):
        again(finished, changed(tiny, train_teacher={"lr": 1e-3}), only="distil")


def test_restarting_changed_stages_and_only(finished, tiny, tmp_path):
    """A changed stage runs again with all that depends on it, and nothing else does."""
    run = copy_of(finished, tmp_path)
    before = digests(run)
    recipe = write_recipe(tmp_path / "r.yaml", changed(tiny, recover={"max_steps": 1}))
    kdnative.run(recipe, runs=tmp_path / "runs", resume=True, restart_changed=True, until="recover", progress=False)
    assert digests(run)["convert"] == before["convert"]  # not asked for, so left as it was
    assert not (run.path / "summary.json").exists()  # it showed the student that is gone
    assert digests(run, STAGES[:5]) == {stage: before[stage] for stage in STAGES[:5]}
    assert run.record("recover")["digest"] != before["recover"]
    with pytest.raises(PipelineError, match="convert: the output of recover has changed"):
        kdnative.run(recipe, runs=tmp_path / "runs", resume=True, until="convert", progress=False)
    kdnative.run(recipe, runs=tmp_path / "runs", only="convert", overwrite=True, progress=False)
    assert run.record("convert")["digest"] != before["convert"]


def test_overwrite_starts_afresh(tiny, tmp_path):
    short = changed(tiny, train_teacher={"max_steps": 1})
    recipe = write_recipe(tmp_path / "r.yaml", short)
    options = {"runs": tmp_path / "runs", "until": "train_teacher", "progress": False}
    run = RunFolder(kdnative.run(recipe, **options))
    (run.path / "notes.txt").write_text("mine")
    kdnative.run(write_recipe(recipe, changed(short, seed=6)), overwrite=True, **options)
    assert run.origin("train_teacher")["settings"]["seed"] == 6
    assert (run.path / "notes.txt").read_text() == "mine"


def test_failures_leave_no_folder_behind(tiny, tmp_path):
    for wrong, error, words in (
        (changed(tiny, data={"source": str(tmp_path / "absent.tsv")}), DataError, "absent.tsv: no such file"),
        (changed(tiny, teacher={"source": "absent"}), PipelineError, "train_teacher starts from 'absent', and there"),
        (changed(tiny, recover={"schemes": "w3a8"}), kdnative.pipeline.RecipeError, "unknown scheme 'w3a8'"),
        (changed(tiny, distil={"epchs": 3}), kdnative.pipeline.RecipeError, "did you mean 'epochs'"),
    ):
        with pytest.raises(error, match=words):
            kdnative.run(write_recipe(tmp_path / "r.yaml", wrong), runs=tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists()


def test_an_unusable_native_library_is_refused_before_anything_runs(tiny, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", tiny)
    command = [sys.executable, "-m", "kdnative", "run", str(recipe), "--runs", str(tmp_path / "runs"), "--quiet"]
    environment = {**os.environ, "KDNATIVE_ISA": "bogus"}
    command += ["--until", "train_teacher"]
    end = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert end.returncode and "no instruction set 'bogus'" in end.stderr and "Traceback" not in end.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": "distill"}, "'distill' is no stage; stages of this recipe: train_teacher"),
        ({"until": "prune"}, "'prune' is left out by this recipe"),
        ({"only": "distil", "until": "distil"}, "not both"),
    ],
)
def test_wrong_stage_names(tiny, tmp_path, options, words):
    recipe = write_recipe(tmp_path / "r.yaml", changed(tiny, prune=None))
    with pytest.raises(PipelineError, match=words):
        kdnative.run(recipe, runs=tmp_path / "runs", progress=False, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device(tiny, tmp_path):
    with pytest.raises(PipelineError, match="finds no CUDA device"):
        kdnative.run(write_recipe(tmp_path / "r.yaml", changed(tiny, device="cuda")), runs=tmp_path, progress=False)


def test_another_models_student_with_its_own_vocabulary(tiny, tmp_path):
    """Student of another width and numbering: translated ids, projected hidden states, stages left out."""
    student = write_model(tmp_path / "student", layers=2, width=32, backwards=True)
    recipe = changed(
        tiny,
        student={"source": str(student), "layers": None},
        train_teacher={"max_steps": 2},
        compress_teacher={"scheme": None},
        distil={"max_steps": 2, "class_weights": "balanced", "layer_map": {"2": 3}},
        train_baseline=None,
        prune=None,
        recover=None,
    )
    path = write_recipe(tmp_path / "r.yaml", recipe)
    run = RunFolder(kdnative.run(path, runs=tmp_path / "runs", progress=False, until="evaluate"))
    rows = run.metrics("evaluate")["rows"]
    assert list(rows) == ["teacher", "distilled", "native"]
    assert run.metrics("distil")["history"][0]["hidden"] > 0
    assert run.record("prune") is None
