"""Saving into a folder that others use: files of the user's, permissions, mounts, failures, kills, other processes."""

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import warnings

import pytest

from kdnative.checkpoint import CheckpointError, load, placing, save
from tests.checkpoint.kills import NOTES, kill_often, lost_notes, write_notes
from tests.checkpoint.race import race
from tests.checkpoint.values import Tokenizer, model_of, value_of
from tests.checkpoints import names, weights_file

OLD, NEW = Tokenizer(vocab_txt="a b", merges_txt="1"), Tokenizer(vocab_txt="a b c", more_json="{}")


@pytest.fixture
def folder(tmp_path):
    save(model_of(1.0), tmp_path / "m", tokenizer=OLD)
    write_notes(tmp_path / "m")
    return tmp_path / "m"


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def listed(folder):
    return sorted([weights_file(folder).name, "kdnative.json", *NOTES])


def test_files_of_the_users_stay_as_they_are(folder):
    before = {name: os.lstat(folder / name) for name in NOTES}
    save(model_of(2.0), folder, tokenizer=NEW)
    assert value_of(load(folder)) == 2.0 and not lost_notes(folder)
    assert {name: os.lstat(folder / name) for name in NOTES} == before
    assert sorted(contents(folder)) == sorted([*listed(folder), "vocab.txt", "more.json"])
    save(model_of(1.0), folder)
    assert sorted(contents(folder)) == listed(folder)


def test_a_link_to_a_folder_stays_a_link(folder, tmp_path):
    (tmp_path / "latest").symlink_to("m")
    assert save(model_of(2.0), tmp_path / "latest") == tmp_path / "latest"
    assert (tmp_path / "latest").is_symlink() and value_of(load(folder)) == 2.0


def test_files_of_the_users_that_have_a_tokenizers_name(folder):
    (folder / "more.json").write_text("my own")
    before = contents(folder)
    with pytest.raises(CheckpointError, match="more.json: kdnative.save has not written this file.*nothing was writ"):
        save(model_of(2.0), folder, tokenizer=NEW)
    assert contents(folder) == before and value_of(load(folder)) == 1.0

    (folder / "more.json").write_text("{}")  # the same as the tokenizer's: it stays the user's
    save(model_of(2.0), folder, tokenizer=NEW)
    assert list(json.loads((folder / "kdnative.json").read_text())["files"]) == ["vocab.txt"]
    save(model_of(1.0), folder)
    assert (folder / "more.json").read_text() == "{}" and not (folder / "vocab.txt").exists()


def test_files_of_ours_that_somebody_has_changed(folder):
    (folder / "merges.txt").write_text("2")
    save(model_of(2.0), folder)
    assert (folder / "merges.txt").read_text() == "2" and not (folder / "vocab.txt").exists()
    (folder / "link").write_text("a b c")
    (folder / "vocab.txt").symlink_to("link")
    with pytest.raises(CheckpointError, match="vocab.txt: kdnative.save has not written this file"):
        save(model_of(1.0), folder, tokenizer=NEW)
    assert (folder / "vocab.txt").is_symlink() and (folder / "link").read_text() == "a b c"


def test_tokenizers_with_names_that_checkpoints_need(folder):
    before = contents(folder)
    with pytest.raises(CheckpointError, match="the tokenizer or processor writes a file 'kdnative.json'"):
        save(model_of(2.0), folder, tokenizer=Tokenizer(kdnative_json="{}"))
    assert contents(folder) == before


def test_a_description_that_names_files_elsewhere_can_not_have_them_removed(folder, tmp_path):
    """A folder from somebody else, into which one saves."""
    (tmp_path / "precious.txt").write_text("mine")
    digest = placing.sha256_of(tmp_path / "precious.txt")
    manifest = json.loads((folder / "kdnative.json").read_text())
    outside = {"../precious.txt": digest, str(tmp_path / "precious.txt"): digest, "a/../../precious.txt": digest}
    (folder / "kdnative.json").write_text(json.dumps({**manifest, "files": outside}))
    save(model_of(2.0), folder)
    assert (tmp_path / "precious.txt").read_text() == "mine" and value_of(load(folder)) == 2.0


# -- permissions and mounts --------------------------------------------------------------------------------------------


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_permissions_of_the_folder_and_of_replaced_files_stay(folder):
    os.chmod(folder, 0o2770)
    os.chmod(folder / "kdnative.json", 0o600)
    os.chmod(weights_file(folder), 0o640)
    os.chmod(folder / "vocab.txt", 0o604)
    save(model_of(2.0), folder, tokenizer=NEW)
    assert mode(folder) == 0o2770 and mode(folder / "kdnative.json") == 0o600
    assert mode(weights_file(folder)) == 0o640 and mode(folder / "vocab.txt") == 0o604
    usual = (folder / "usual").touch() or mode(folder / "usual")
    assert mode(folder / "more.json") == usual


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owners_of_the_folder_and_of_replaced_files_stay(folder):
    for path in (folder, folder / "kdnative.json", weights_file(folder), folder / "vocab.txt"):
        os.chown(path, 1234, 4321)
    save(model_of(2.0), folder, tokenizer=NEW)
    for path in (folder, folder / "kdnative.json", weights_file(folder), folder / "vocab.txt"):
        assert (os.stat(path).st_uid, os.stat(path).st_gid) == (1234, 4321), path


@pytest.fixture
def mount():
    mounted = []

    def mount(path):
        path.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine does not let the test mount: {done.stderr.strip()}")
        mounted.append(path)

    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    yield mount
    for path in reversed(mounted):
        subprocess.run(["umount", str(path)], check=True)


def test_a_mount_point_inside_of_the_folder(folder, mount):
    mount(folder / "volume")
    (folder / "volume" / "precious.txt").write_text("data")
    save(model_of(2.0), folder, tokenizer=NEW)
    assert value_of(load(folder)) == 2.0 and not lost_notes(folder)
    assert os.path.ismount(folder / "volume") and (folder / "volume" / "precious.txt").read_text() == "data"


def test_a_folder_that_is_a_mount_point(tmp_path, mount):
    mount(tmp_path / "models")
    for value in (1.0, 2.0):
        save(model_of(value), tmp_path / "models", tokenizer=NEW)
        assert value_of(load(tmp_path / "models")) == value
    assert os.path.ismount(tmp_path / "models")


# -- failures and kills ------------------------------------------------------------------------------------------------

CALLS = ("replace", "rename", "unlink", "rmdir", "mkdir", "chmod", "fsync", "link", "open")


def at_call(number, act):
    """Functions of ``os`` that run ``act`` before call ``number`` of all of them; and how many calls there were."""
    count = [0]

    def watched(real):
        def call(*arguments, **options):
            count[0] += 1
            if count[0] == number:
                act()
            return real(*arguments, **options)

        return call

    return {name: watched(getattr(os, name)) for name in CALLS}, count


def fail():
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def calls_of_a_save(folder, monkeypatch):
    functions, count = at_call(0, fail)
    with monkeypatch.context() as patch:
        for name, function in functions.items():
            patch.setattr(os, name, function)
        save(model_of(2.0), folder, tokenizer=NEW)
    return count[0]


def test_a_failure_at_any_step_leaves_the_old_checkpoint(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "copy")
    steps = calls_of_a_save(tmp_path / "copy", monkeypatch)
    assert steps > 20
    before, failed = contents(folder), 0
    for step in range(1, steps + 1):
        shutil.rmtree(folder)
        folder.mkdir()
        for name, data in before.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        functions, _ = at_call(step, fail)
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what could not be removed
            for name, function in functions.items():
                patch.setattr(os, name, function)
            try:
                save(model_of(2.0), folder, tokenizer=NEW)
                error = None
            except CheckpointError as refused:
                error = refused
        assert not lost_notes(folder), step
        if error is None:  # a step that can be done without, or one after the change
            assert value_of(load(folder)) == 2.0, step
            continue
        failed += 1
        assert "Input/output error" in str(error), step
        assert value_of(load(folder)) == 1.0, step
        assert {k: v for k, v in contents(folder).items() if not k.startswith(".kdnative-")} == before, step
    assert failed > 8


def test_what_is_left_of_the_old_checkpoint_is_said(folder, monkeypatch):
    unlink = os.unlink

    def stuck(path, *arguments, **options):
        if os.path.basename(str(path)) == "merges.txt":
            fail()
        unlink(path, *arguments, **options)

    monkeypatch.setattr(os, "unlink", stuck)
    with pytest.warns(UserWarning, match=r"the new checkpoint is in place, but .* merges.txt \(Input/output error\)"):
        save(model_of(2.0), folder)
    assert value_of(load(folder)) == 2.0 and (folder / "merges.txt").exists()


def test_a_failure_that_can_not_be_undone_is_said(folder, monkeypatch):
    replace = os.replace

    def broken(source, target):
        if "replaced" in str(source) or os.path.basename(target) == "kdnative.json":
            fail()
        replace(source, target)

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(CheckpointError, match="could not be put back.*the model there is the old one, and copies"):
        save(model_of(2.0), folder, tokenizer=NEW)
    monkeypatch.undo()
    copies = list(folder.glob(".kdnative-*.tmp/replaced/*"))
    assert [copy.read_text() for copy in copies] == ["a b"]
    assert value_of(load(folder)) == 1.0
    save(model_of(2.0), folder, tokenizer=NEW)
    assert value_of(load(folder)) == 2.0 and not list(folder.glob(".kdnative-*"))


@pytest.mark.parametrize("exists", [True, False])
def test_a_kill_at_any_step(folder, tmp_path, exists, monkeypatch):
    """Afterwards the old model or the new one is there, whole, every file of the user's, and the next save works."""
    shutil.copytree(folder, tmp_path / "copy")
    new, whole = model_of(2.0), set()
    for step in range(1, calls_of_a_save(tmp_path / "copy", monkeypatch) + 1):
        target = folder if exists else tmp_path / f"new{step}"
        if exists:
            save(model_of(1.0), folder, tokenizer=OLD)
        child = os.fork()
        if child == 0:
            functions, _ = at_call(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
            for name, function in functions.items():
                setattr(os, name, function)
            save(new, target, tokenizer=NEW)
            os._exit(0)
        os.waitpid(child, 0)
        if exists:
            assert not lost_notes(folder), step
            whole.add(value_of(load(folder)))
        save(new, target, tokenizer=NEW)
        assert value_of(load(target)) == 2.0
        expected = [weights_file(target).name, "kdnative.json", "vocab.txt", "more.json", *(NOTES if exists else ())]
        assert sorted(contents(target)) == sorted(expected), step
    assert whole == ({1.0, 2.0} if exists else set())


def test_kills_at_random(tmp_path):
    assert kill_often(tmp_path / "m", 12) == []


# -- other processes ---------------------------------------------------------------------------------------------------


def test_a_save_leaves_alone_where_another_one_is_at_work(folder):
    with placing.staging(folder) as stage:
        save(model_of(2.0), folder, tokenizer=NEW)
        assert stage.companions.is_dir()
    assert sorted(contents(folder)) == sorted([*listed(folder), "vocab.txt", "more.json"])


def test_a_save_that_waits_too_long_gives_up(folder, monkeypatch):
    monkeypatch.setattr(placing, "_PATIENCE", 0.05)
    before = contents(folder)
    with (
        placing._locked(folder),
        pytest.raises(CheckpointError, match="another process has been saving there for 0 seconds; .*nothing was"),
    ):
        save(model_of(2.0), folder)
    assert contents(folder) == before


def test_savers_and_loaders_at_the_same_time(tmp_path):
    found, saves, errors = race(tmp_path / "m", seconds=3.0)
    assert {value for _, value in found} <= {"1.0", "2.0"}, found
    assert saves > 4 and sum(found.values()) > 4 and not errors
    assert names(tmp_path / "m") == sorted([weights_file(tmp_path / "m").name, "kdnative.json"])
