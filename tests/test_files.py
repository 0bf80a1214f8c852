"""Folders that are replaced in one step."""

import os

import pytest

from kdnative.files import replace_folder


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    target, link = tmp_path / "run1", tmp_path / "latest"
    target.mkdir()
    (target / "model").write_text("old")
    (target / "notes.txt").write_text("mine")
    link.symlink_to("run1")
    replace_folder(link, lambda new: (new / "model").write_text("new"), {"model"})
    assert link.is_symlink() and sorted(os.listdir(tmp_path)) == ["latest", "run1"]
    assert (target / "model").read_text() == "new" and (target / "notes.txt").read_text() == "mine"


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    (target / "model").write_text("old")

    def fail(new):
        (new / "model").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_folder(target, fail, {"model"})
    assert os.listdir(tmp_path) == ["run"] and (target / "model").read_text() == "old"
