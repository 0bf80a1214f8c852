"""The run folder: complete or absent outputs, interrupted work, locks."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from kdnative.pipeline import PipelineError, RunFolder
from kdnative.pipeline.folder import file_digests, read_json, stage_digest, write_json

ORIGIN = {"settings": {"seed": 1}, "inputs": {}}


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.open()
    yield run
    run.close()


def make(folder: RunFolder, stage: str, content: bytes = b"x") -> None:
    place = folder.begin(stage, ORIGIN)
    (place / "w.safetensors").write_bytes(content)
    folder.finish(stage, {"n": 1}, 0.5)


def test_a_stage_is_visible_only_when_finished(folder):
    place = folder.begin("distil", ORIGIN)
    (place / "w.safetensors").write_bytes(b"half")
    assert folder.record("distil") is None and folder.origin("distil") == ORIGIN
    folder.finish("distil", {"n": 1}, 0.5)
    assert not place.exists()
    assert folder.record("distil")["seconds"] == 0.5 and folder.metrics("distil") == {"n": 1}
    assert folder.origin("distil") == ORIGIN


def test_interrupted_work_of_the_same_origin_is_kept(folder):
    (folder.begin("distil", ORIGIN) / "training.state").write_bytes(b"step 7")
    assert (folder.begin("distil", ORIGIN) / "training.state").read_bytes() == b"step 7"
    assert not (folder.begin("distil", {"settings": {"seed": 2}, "inputs": {}}) / "training.state").exists()


def test_digest_covers_names_and_contents(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.safetensors").write_bytes(b"12")
    (tmp_path / "model" / "kdnative.json").write_bytes(b"3")  # schemes and configuration
    (tmp_path / "metrics.json").write_bytes(b"{}")  # hours of the clock are in there: no part of what was made
    for name in ("origin.json", "stage.json", "training.state", "store.key"):
        (tmp_path / name).write_bytes(b"how it came about")
    files = {"a.safetensors": b"12", "kdnative.json": b"3"}
    lines = "".join(f"model/{name}\n{hashlib.sha256(content).hexdigest()}\n" for name, content in files.items())
    assert stage_digest(file_digests(tmp_path)) == hashlib.sha256(lines.encode()).hexdigest()


def test_what_a_killed_process_left_is_neither_hashed_nor_kept(folder):
    """The last one holds a whole checkpoint, whose weights would be taken for the stage's own."""
    place = folder.begin("distil", ORIGIN)
    (place / "w.safetensors").write_bytes(b"x")
    before = file_digests(place)
    (place / ".training.state.0123456789ab.tmp").write_bytes(b"half")
    (place / ".model.0123456789ab.tmp").mkdir()
    (place / ".model.0123456789ab.tmp" / "model.safetensors").write_bytes(b"half")
    assert file_digests(place) == before and list(before) == ["w.safetensors"]
    assert sorted(os.listdir(folder.begin("distil", ORIGIN))) == ["origin.json", "w.safetensors"]


def test_the_key_that_an_attempt_began_with(folder):
    folder.begin("distil", ORIGIN, "first")
    folder.begin("distil", ORIGIN, "second")
    assert folder.began_as("distil") == "first" and folder.began_as("distil") is None
    (folder.begin("prune", ORIGIN, "x") / "store.key").unlink()
    assert folder.began_as("prune") is None


def test_a_half_taken_output_is_no_attempt_to_go_on_with(folder):
    def fill(place):
        write_json(place / "origin.json", ORIGIN)
        (place / "w.safetensors").write_bytes(b"half")
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        folder.adopt("distil", fill)
    assert os.listdir(folder.begin("distil", ORIGIN)) == ["origin.json"]


def test_the_training_state_goes_only_after_the_stage_is_visible(folder, monkeypatch):
    """Were it deleted before, a failure in between would cost the whole training."""
    place = folder.begin("distil", ORIGIN)
    (place / "training.state").write_bytes(b"all steps")
    (place / "w.safetensors").write_bytes(b"x")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no rename"):
        patch.setattr(os, "rename", _no_rename)
        folder.finish("distil", {}, 1.0)
    assert (place / "training.state").exists()
    folder.finish("distil", {}, 1.0)
    assert not list(folder.stages.rglob("training.state"))


def _no_rename(source, target):
    raise OSError("no rename")


def test_a_state_left_in_a_finished_stage_goes_at_the_next_start(folder):
    make(folder, "distil")
    (folder.begin("prune", ORIGIN) / "training.state").write_bytes(b"step 7")
    (folder.output("distil") / "training.state").write_bytes(b"all steps")
    folder.close()
    folder.open()
    assert [path.parent.name for path in folder.stages.rglob("training.state")] == ["prune.partial"]


def test_digest_without_weights_is_of_the_figures(tmp_path):
    write_json(tmp_path / "metrics.json", {"a": 1})
    before = stage_digest(file_digests(tmp_path))
    write_json(tmp_path / "metrics.json", {"a": 2})
    assert stage_digest(file_digests(tmp_path)) != before


def test_discard_removes_finished_and_half_finished(folder):
    make(folder, "distil")
    folder.begin("prune", ORIGIN)
    folder.discard("distil")
    folder.discard("prune")
    folder.discard("never there")
    assert os.listdir(folder.stages) == []


def test_an_interrupted_removal_is_completed(tmp_path, folder):
    (folder.stages / "distil.discarded").mkdir()
    folder.close()
    again = RunFolder(folder.path)
    again.open()
    again.close()
    assert not (folder.stages / "distil.discarded").exists()


def test_leftovers_beside_the_stages_go_at_the_next_start(folder):
    """Those of the files that a run replaces; a user's may have names like theirs."""
    (folder.path / ".report.json.bfedf11b4159.tmp").write_text("half")
    (folder.path / ".recipe.yaml.bfedf11b4159.tmp").write_text("half")
    for name in (".notes.tmp", ".report.txt.tmp", "report.json.tmp"):
        (folder.path / name).write_text("mine")
    folder.close()
    folder.open()
    assert sorted(os.listdir(folder.path)) == [".lock", ".notes.tmp", ".report.txt.tmp", "report.json.tmp", "stages"]


def test_an_output_without_its_record_makes_way(folder):
    """It would be found in the way only when the stage is finished, after all its training."""
    make(folder, "distil")
    (folder.output("distil") / "stage.json").unlink()
    (folder.begin("distil", ORIGIN) / "w.safetensors").write_bytes(b"y")
    folder.finish("distil", {"n": 2}, 0.5)
    assert folder.metrics("distil") == {"n": 2}


def test_what_is_no_output_is_not_deleted(folder):
    (folder.output("distil")).mkdir()
    (folder.output("distil") / "notes.txt").write_text("mine")
    with pytest.raises(PipelineError, match="distil is not the output of a stage, but .* writes to that path: move it"):
        folder.begin("distil", ORIGIN)
    assert (folder.output("distil") / "notes.txt").read_text() == "mine"


def test_files_beside_those_of_a_stage_do_not_matter(folder):
    make(folder, "distil")
    (folder.output("distil") / "mine.safetensors").write_bytes(b"x")
    (folder.output("distil") / "notes.txt").write_text("mine")
    RunFolder(folder.path).verify("distil")


def test_two_processes_cannot_share_a_run(folder):
    with pytest.raises(PipelineError, match="another process"):
        RunFolder(folder.path).open()
    folder.close()
    again = RunFolder(folder.path)
    again.open()
    again.close()


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    """A lock that outlived its process would make every interrupted run impossible to resume."""
    code = (
        "import os, sys; from kdnative.pipeline import RunFolder\n"
        "RunFolder(sys.argv[1]).open(); os.kill(os.getpid(), 9)"
    )
    end = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert end.returncode == -9
    run = RunFolder(tmp_path / "run")
    run.open()
    run.close()


def test_clear_touches_only_what_a_run_wrote(folder):
    make(folder, "distil")
    (folder.path / "recipe.yaml").write_text("name: x\n")
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "peers.json").write_text("{}")
    folder.clear()
    assert (folder.path / "notes.txt").read_text() == "mine" and not folder.stages.exists()
    assert not (folder.path / "peers.json").exists()


def test_figures_of_other_engines_go_with_the_models_that_they_are_of(folder):
    make(folder, "evaluate")
    place = folder.begin("convert", ORIGIN)
    (place / "model").mkdir()
    folder.finish("convert", {}, 0.5)
    (folder.path / "peers.json").write_text("{}")
    folder.discard("evaluate")
    assert (folder.path / "peers.json").exists()
    folder.discard("convert")
    assert not (folder.path / "peers.json").exists()


def test_an_interrupted_clear_leaves_no_half_stage(folder, monkeypatch):
    """Killed while it deletes: the stage must not be taken for a finished one afterwards."""
    make(folder, "distil")
    (folder.path / "recipe.yaml").write_text("name: x\n")

    def killed(path, **_):
        for weights in path.rglob("*.safetensors"):
            weights.unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", killed)
        folder.clear()
    assert folder.record("distil") is None
    folder.close()
    folder.open()
    assert sorted(os.listdir(folder.path)) == [".lock", "recipe.yaml", "stages"]


def test_clear_refuses_other_folders(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(PipelineError, match="not a run folder"):
        RunFolder(tmp_path).clear()
    assert (tmp_path / "thesis.tex").exists()


def test_an_unwritable_place_is_an_error_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match="can't make the run folder"):
        RunFolder(tmp_path / "file" / "run").open()


def test_damaged_json_is_an_error_in_words(tmp_path):
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(PipelineError, match="metrics.json"):
        read_json(tmp_path / "metrics.json")


def test_failed_write_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json") == {"a": 1} and os.listdir(tmp_path) == ["a.json"]
