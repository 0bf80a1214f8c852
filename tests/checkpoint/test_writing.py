"""Writing checkpoints: what is replaced, refused, and left alone when the disk fails."""

import errno
import os
import subprocess
import sys
import textwrap

import pytest
from torch import nn

from kdnative.checkpoint import CheckpointError, load, save, writing
from kdnative.convert import convert_
from tests.checkpoints import assert_same, mlp, names, weights_file


def test_replaces_a_checkpoint_and_keeps_files_of_others(tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            with open(os.path.join(folder, "vocab.txt"), "w") as file:
                file.write("a\nb\n")

    folder = tmp_path / "m"
    save(mlp(), folder, tokenizer=Tokenizer())
    (folder / "notes.txt").write_text("mine")
    assert names(folder) == [weights_file(folder).name, "kdnative.json", "notes.txt", "vocab.txt"]
    model = convert_(mlp(1)).model
    save(model, folder)
    assert names(folder) == [weights_file(folder).name, "kdnative.json", "notes.txt"], "the old vocabulary is gone"
    assert (folder / "notes.txt").read_text() == "mine" and names(tmp_path) == ["m"]
    assert_same(model, load(folder))


def test_refuses_folders_that_are_something_else(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(CheckpointError, match="not empty and not a kdnative checkpoint"):
        save(mlp(), tmp_path / "photos")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="a checkpoint is a folder"):
        save(mlp(), tmp_path / "file")
    with pytest.raises(CheckpointError, match="could not be written|Not a directory|exists"):
        save(mlp(), tmp_path / "file" / "below")
    assert names(tmp_path) == ["file", "photos"] and names(tmp_path / "photos") == ["a.jpg"]
    (tmp_path / "empty").mkdir()
    save(mlp(), tmp_path / "empty")
    load(tmp_path / "empty")


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("step", ["_write_tensors", "encode"])
def test_a_failing_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, exists, step):
    folder, old = tmp_path / "m", mlp().eval()
    if exists:
        save(old, folder)
    before = {name: (folder / name).read_bytes() for name in names(folder)} if exists else None

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing, step, full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(mlp(1), folder)
    assert names(tmp_path) == (["m"] if exists else [])
    if exists:
        assert before == {name: (folder / name).read_bytes() for name in names(folder)}
        assert_same(old, load(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_disk_that_really_refuses_leaves_the_old_checkpoint(tmp_path):
    old = mlp().eval()
    save(old, tmp_path / "m")
    program = """
        import resource, sys
        from torch import nn
        from kdnative.checkpoint import CheckpointError, save
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save(nn.Sequential(nn.Linear(512, 512)), sys.argv[1])
        except CheckpointError as error:
            print("refused:", error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "m")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"refused: {tmp_path / 'm'}: the checkpoint could not be written")
    assert names(tmp_path) == ["m"]
    assert_same(old, load(tmp_path / "m"))


def test_models_that_can_not_be_saved(tmp_path):
    with pytest.raises(CheckpointError, match="0.weight is on the meta device"):
        save(nn.Sequential(nn.Linear(4, 4, device="meta")), tmp_path / "m")
    assert names(tmp_path) == []
