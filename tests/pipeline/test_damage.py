"""Files of a run that rotted, were cut short or edited: noticed before they are used, with what to do about it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import kdnative
from kdnative.distill import ResumeError
from kdnative.distill.state import read_state, write_state
from kdnative.pipeline import PipelineError, RunFolder
from kdnative.pipeline.stages import training
from tests.pipeline.conftest import changed, copy_of, write_recipe


def flip(file: Path, place: float, bit: int = 2) -> None:
    """Changes one bit of a file, at a share of its length."""
    data = bytearray(file.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1 << bit
    file.write_bytes(data)


def weights(stage: Path) -> Path:
    description = json.loads((stage / "model" / "kdnative.json").read_text(encoding="utf-8"))
    return stage / "model" / description["weights"]["file"]


def soft_labels(stage: Path) -> Path:
    return stage / "soft_labels.safetensors"


def figures(stage: Path) -> Path:
    return stage / "metrics.json"


@pytest.mark.parametrize(
    ("damaged", "file", "damage", "reader"),
    [
        ("train_teacher", weights, "a bit", "compress_teacher"),
        ("compress_teacher", soft_labels, "a bit", "distil"),
        ("compress_teacher", soft_labels, "gone", "distil"),
        ("recover", weights, "cut short", "convert"),
        ("distil", figures, "a bit", "evaluate"),
        ("benchmark", figures, "gone", "report"),
    ],
)
def test_an_output_is_checked_by_the_stage_that_reads_it(finished, tiny, tmp_path, damaged, file, reader, damage):
    run, options = copy_of(finished, tmp_path), {"runs": tmp_path / "runs", "progress": False}
    recipe = write_recipe(tmp_path / "r.yaml", tiny)
    target = file(run.output(damaged))
    if damage == "a bit":
        flip(target, 0.7)
    elif damage == "cut short":
        os.truncate(target, target.stat().st_size // 2)
    else:
        target.unlink()
    shutil.rmtree(run.output(reader))
    problem = "is missing" if damage == "gone" else "has changed since the stage finished"
    with pytest.raises(
        PipelineError, match=f"{target.name} {problem}: run the stage again with --only {damaged} --overw"
    ):
        kdnative.run(recipe, resume=True, until=reader, **options)
    assert run.record(reader) is None
    kdnative.run(recipe, only=damaged, overwrite=True, **options)  # as it says
    kdnative.run(recipe, resume=True, until=reader, **options)
    assert run.record(damaged)["digest"] == finished.record(damaged)["digest"] or damaged == "benchmark"
    assert run.record(reader) is not None


def test_outputs_are_read_once_for_their_digests(finished, tiny, tmp_path, monkeypatch):
    from kdnative.pipeline import folder

    run, seen = copy_of(finished, tmp_path), []
    for stage in ("distil", "prune", "recover", "convert"):
        shutil.rmtree(run.output(stage))
    original = folder.sha256_of
    monkeypatch.setattr(folder, "sha256_of", lambda file: seen.append(file) or original(file))
    recipe = write_recipe(tmp_path / "r.yaml", tiny)
    kdnative.run(recipe, runs=tmp_path / "runs", resume=True, until="convert", progress=False)
    assert seen.count(weights(run.output("train_teacher"))) == 1
    assert seen.count(soft_labels(run.output("compress_teacher"))) == 1
    assert weights(run.output("distil")) not in seen, "this process has just written it"


CONTENTS = ("{", "[1]", "{}", '"text"', "null", '{"digest": 7, "settings": []}', "[" * 3000, "\0", "9" * 5000)


@pytest.mark.parametrize("content", CONTENTS)
def test_descriptions_of_a_stage_that_are_none(finished, tmp_path, content):
    run = copy_of(finished, tmp_path)
    for name, read in (("stage.json", run.record), ("origin.json", run.origin)):
        (run.output("train_teacher") / name).write_text(content, encoding="utf-8")
        with pytest.raises(PipelineError, match=rf"{name}.*remove the folder .*train_teacher and run with --resume"):
            read("train_teacher")


@pytest.mark.parametrize("name", ["stage.json", "origin.json"])
def test_a_run_that_finds_one_ends_in_words(finished, tiny, tmp_path, name):
    run = copy_of(finished, tmp_path)
    (run.output("distil") / name).write_bytes(b"\xff")
    with pytest.raises(PipelineError, match=rf"can't read .*{name}.*remove the folder .*distil and run with --resume"):
        kdnative.run(write_recipe(tmp_path / "r.yaml", tiny), runs=tmp_path / "runs", resume=True, progress=False)


@pytest.mark.parametrize("key", ["stage", "seconds", "digest", "files"])
@pytest.mark.parametrize("value", [None, [], "absent"])
def test_records_that_lack_a_key(finished, tmp_path, key, value):
    run = copy_of(finished, tmp_path)
    file = run.output("distil") / "stage.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content[key] = value
    if value == "absent":
        del content[key]
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(PipelineError, match=f"stage.json is damaged: '{key}' is "):
        run.record("distil")


@pytest.mark.parametrize("content", ["{", "[]", '{"stages": 3}'])
def test_what_only_tells_of_a_run_is_written_again(finished, tiny, tmp_path, content):
    run = copy_of(finished, tmp_path)
    for name in ("run.json", "summary.json", "recipe.yaml"):
        (run.path / name).write_text(content, encoding="utf-8")
    recipe = write_recipe(tmp_path / "r.yaml", tiny)
    shutil.rmtree(run.output("report"))
    kdnative.run(recipe, runs=tmp_path / "runs", resume=True, progress=False)
    for name in ("run.json", "summary.json", "recipe.yaml"):
        assert (run.path / name).read_text(encoding="utf-8") != content
    assert (run.path / "recipe.yaml").read_bytes() == (finished.path / "recipe.yaml").read_bytes()


@pytest.fixture(scope="module")
def interrupted(finished, tiny, tmp_path_factory) -> Path:
    """The parent of a run that ended in the middle of the distillation, and its recipe."""

    class Ended(training._Clock):
        def on_step(self, progress):
            if self.context.stage == "distil" and progress.step == 14:
                raise KeyboardInterrupt

    place = tmp_path_factory.mktemp("interrupted")
    path = write_recipe(place / "r.yaml", changed(tiny, train_baseline=None))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_Clock", Ended)
        kdnative.run(path, runs=place / "runs", until="distil", progress=False)
    return place


def resumed(interrupted: Path, place: Path, damage) -> RunFolder:
    """The run goes on after something was done to the state of its training."""
    shutil.copytree(interrupted / "runs", place / "runs")
    damage(place / "runs" / "tiny" / "stages" / "distil.partial" / "training.state")
    return RunFolder(
        kdnative.run(interrupted / "r.yaml", runs=place / "runs", resume=True, until="distil", progress=False)
    )


def test_an_untouched_state_is_continued(interrupted, finished, tmp_path):
    run = resumed(interrupted, tmp_path, lambda state: None)
    assert run.record("distil")["digest"] == finished.record("distil")["digest"]


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_state_with_one_other_bit_is_refused(interrupted, tmp_path, place):
    with pytest.raises(ResumeError, match="training.state is not a readable training state: it .*; delete the file"):
        resumed(interrupted, tmp_path, lambda state: flip(state, place))


def test_a_state_without_the_time_it_took_is_refused(interrupted, tmp_path):
    def damage(file: Path) -> None:
        state = read_state(file)
        del state["parts"]["callback 0"]["seconds"], state["format"]
        write_state(file, state)

    with pytest.raises(ResumeError, match="saved state of the callback 0 does not match this run: KeyError: 'seconds'"):
        resumed(interrupted, tmp_path, damage)
