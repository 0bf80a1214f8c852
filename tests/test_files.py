"""What killed writers leave behind, and files that are replaced in one step."""

import pytest

from kdnative.files import is_leftover, remove_leftovers, replace_text, write_atomically


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    replace_text(tmp_path / "a.txt", "old")

    def half(name):
        with open(name, "w") as file:
            file.write("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a.txt", half)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_leftovers_are_told_from_other_hidden_files_and_removed(tmp_path):
    (tmp_path / ".a.txt.0123456789ab.tmp").write_text("half")
    (tmp_path / ".kdnative-0123456789ab.tmp").mkdir()
    (tmp_path / ".kdnative-0123456789ab.tmp" / "x").write_text("half")
    for name in (".env", "b.tmp", ".lock"):
        (tmp_path / name).write_text("mine")
    assert sum(map(is_leftover, tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".env", ".lock", "b.tmp"]
