"""Writing the training state where that is impossible."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from kdnative.distill import state
from kdnative.distill.state import read_state, write_state


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the full disk of Linux")
def test_full_disk_names_file_and_cause(tmp_path, monkeypatch):
    path = tmp_path / "training.state"
    write_state(path, {"step": 1})
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, name: save(content, "/dev/full"))
    with pytest.raises(OSError, match="disk is full") as caught:
        write_state(path, {"step": 2, "weights": torch.ones(1000)})
    assert str(caught.value).startswith(str(path)) and "--resume" in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert read_state(path)["step"] == 1, "the earlier state is still there"
    assert os.listdir(tmp_path) == ["training.state"]


def test_full_disk_found_by_the_sync(tmp_path, monkeypatch):
    def full(path, write):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as fsync raises it: without a file

    monkeypatch.setattr(state, "write_atomically", full)
    with pytest.raises(OSError, match="training.state: .*No space left"):
        write_state(tmp_path / "training.state", {})


def test_an_error_that_names_its_file_stays(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        write_state(tmp_path / "file" / "training.state", {})
