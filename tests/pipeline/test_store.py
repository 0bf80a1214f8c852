"""The store: shared between runs, whole or not there, checked, locked, listed and emptied."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import kdnative
from kdnative.cli import main
from kdnative.pipeline import RunFolder, load_recipe, runner
from kdnative.pipeline import store as module
from kdnative.pipeline.stages import training
from kdnative.pipeline.store import Store, store_path
from tests.pipeline.conftest import changed, write_recipe

ORIGIN = {"settings": {"seed": 1}, "inputs": {}}
KEY = Store.key("distil", 1, ORIGIN)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "own")


def made(place: Path, content: bytes = b"weights") -> Path:
    """A stage's folder as it is before it becomes visible."""
    (place / "model").mkdir(parents=True)
    (place / "model" / "w.safetensors").write_bytes(content)
    (place / "stage.json").write_text("{}")
    (place / "training.state").write_bytes(b"steps")
    (place / "store.key").write_text(KEY)
    (place / ".w.0123456789ab.tmp").write_bytes(b"half")
    return place


def put(store: Store, place: Path, key: str = KEY) -> None:
    with store.held("distil", key):
        store.put("distil", key, ORIGIN, place)


def has(store: Store, key: str = KEY) -> bool:
    with store.held("distil", key):
        return store.has("distil", key)


def test_what_is_put_can_be_taken(store, tmp_path):
    assert not has(store)
    put(store, made(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    with store.held("distil", KEY):
        assert store.has("distil", KEY)
        store.take("distil", KEY, tmp_path / "b")
    files = sorted(f.relative_to(tmp_path / "b").as_posix() for f in (tmp_path / "b").rglob("*") if f.is_file())
    assert files == ["model/w.safetensors", "stage.json"], "neither the training's state nor leftovers"
    shutil.rmtree(tmp_path / "a")
    assert (tmp_path / "b" / "model" / "w.safetensors").read_bytes() == b"weights" and has(store)


def test_files_are_copied_where_they_cannot_be_linked(store, tmp_path, monkeypatch):
    def no_link(*_):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", no_link)
    put(store, made(tmp_path / "a"))
    (tmp_path / "a" / "model" / "w.safetensors").write_bytes(b"changed")
    assert has(store)


def test_only_weights_are_links(store, tmp_path):
    """Whoever edits a small file of a run in place must not change other runs."""
    put(store, made(tmp_path / "a"))
    (tmp_path / "a" / "stage.json").write_text('{"edited": 1}')
    assert has(store)
    assert (tmp_path / "a" / "model" / "w.safetensors").stat().st_nlink == 2 or os.name == "nt"


@pytest.mark.parametrize(
    "name", ["../../out.safetensors", "/absolute", "model/../stage.json", "link/out", "link", "\0"]
)
def test_names_that_lead_out_of_the_store_are_refused(store, tmp_path, name):
    put(store, made(tmp_path / "a"))
    place = store.path / "distil" / KEY
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "out").write_bytes(b"x")
    (store.path / "out.safetensors").write_bytes(b"x")
    (place / "link").symlink_to(outside if name == "link/out" else outside / "out")
    entry = json.loads((place / "entry.json").read_text())
    name = str(outside / "out") if name == "/absolute" else name
    content = b"{}" if name.endswith("stage.json") else b"x"
    entry["files"][name] = hashlib.sha256(content).hexdigest()
    (place / "entry.json").write_text(json.dumps(entry))
    assert not has(store)


def test_what_is_there_already_is_not_written_over(tmp_path):
    (tmp_path / "new").mkdir()
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "w.safetensors").write_bytes(place.encode())
    with pytest.raises(FileExistsError):
        module._link_all(tmp_path / "a", tmp_path / "b", ["w.safetensors"])
    assert (tmp_path / "b" / "w.safetensors").read_bytes() == b"b"


@pytest.mark.parametrize("damage", ["a bit", "gone", "no entry", "not JSON"])
def test_what_has_changed_is_not_there(store, tmp_path, damage):
    put(store, made(tmp_path / "a"))
    place = store.path / "distil" / KEY
    if damage == "a bit":
        (place / "model" / "w.safetensors").write_bytes(b"weightt")
    elif damage == "gone":
        (place / "model" / "w.safetensors").unlink()
    elif damage == "no entry":
        (place / "entry.json").unlink()
    else:
        (place / "entry.json").write_text("{")
    assert not has(store) and not place.exists()
    put(store, made(tmp_path / "c"))
    assert has(store)


def test_keys_tell_origins_stages_and_versions_apart():
    others = [Store.key("prune", 1, ORIGIN), Store.key("distil", 2, ORIGIN)]
    others.append(Store.key("distil", 1, {**ORIGIN, "data": "x"}))
    others.append(Store.key("distil", 1, ORIGIN, {"device": "cuda"}))
    assert len({KEY, *others}) == 5 and Store.key("distil", 1, dict(reversed(ORIGIN.items()))) == KEY


_KILLED = """
import os, sys
from pathlib import Path
from kdnative.pipeline.store import Store

store, source, call, number = Store(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
original, count = getattr(os, call), [0]

def killed(*arguments, **options):
    count[0] += 1
    if count[0] == number:
        os.kill(os.getpid(), 9)
    return original(*arguments, **options)

origin = {"settings": {"seed": 1}, "inputs": {}}
key = Store.key("distil", 1, origin)
with store.held("distil", key):
    setattr(os, call, killed)
    store.put("distil", key, origin, source)
"""


@pytest.mark.parametrize(("call", "number"), [("link", 1), ("fsync", 1), ("fsync", 3), ("rename", 1)])
def test_half_written_outputs_are_never_there(store, tmp_path, call, number):
    command = [sys.executable, "-c", _KILLED, str(store.path), str(made(tmp_path / "a")), call, str(number)]
    end = subprocess.run(command, check=False, capture_output=True, text=True)
    assert end.returncode == -signal.SIGKILL, end.stderr
    assert store.entries() == [] and not has(store)
    assert sorted(f.suffix for f in (store.path / "distil").iterdir()) == [".lock"], "the next use cleans up"
    put(store, tmp_path / "a")
    assert has(store)


def test_the_second_waits_for_the_first(store, tmp_path):
    order, waits = [], threading.Event()

    def second() -> None:
        with store.held("distil", KEY, lambda: (order.append("waits"), waits.set())):
            order.append("has it" if store.has("distil", KEY) else "has nothing")

    with store.held("distil", KEY):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(60)
        store.put("distil", KEY, ORIGIN, made(tmp_path / "a"))
        order.append("put")
    thread.join(60)
    assert order == ["waits", "put", "has it"]


def test_a_lock_file_that_was_deleted_meanwhile_is_no_lock(store, tmp_path, monkeypatch):
    """Two processes would hold one key: each a file of its own."""
    put(store, made(tmp_path / "a"))
    path = store.path / "distil" / f"{KEY}.lock"
    original, deleted = os.open, []

    def opened(name, *arguments):
        descriptor = original(name, *arguments)
        if Path(name) == path and not deleted:
            deleted.append(path.unlink())
        return descriptor

    monkeypatch.setattr(os, "open", opened)
    with store.held("distil", KEY):
        assert deleted and path.exists() and module._try_lock(path) is None


def test_clear_keeps_what_a_run_holds(store, tmp_path):
    other = Store.key("distil", 1, {})
    put(store, made(tmp_path / "a"))
    put(store, made(tmp_path / "b"), other)
    with store.held("distil", other):
        removed, kept = store.clear()
        assert [e.key for e in removed] == [KEY] and [e.key for e in kept] == [other]
        assert store.has("distil", other)
    assert [e.key for e in store.clear()[0]] == [other] and store.entries() == []
    assert list((store.path / "distil").iterdir()) == []


def test_clear_leaves_nothing_that_is_free(store, tmp_path):
    put(store, made(tmp_path / "a"))
    first, second, third = (Store.key("distil", n, {}) for n in (2, 3, 4))
    place = store.path / "distil"
    (place / f".{first}.0123456789ab.tmp").mkdir()
    (place / f".{first}.0123456789ab.tmp" / "w.safetensors").write_bytes(b"half")
    (place / second).mkdir()  # lost its entry
    (place / f"{third}.lock").touch()
    (place / "notes.txt").write_text("mine")
    assert [e.key for e in store.entries()] == [KEY]
    removed, kept = store.clear()
    assert [e.key for e in removed] == [KEY] and kept == []
    assert [f.name for f in place.iterdir()] == ["notes.txt"]


def test_outputs_may_vanish_while_they_are_listed(store, tmp_path, monkeypatch):
    put(store, made(tmp_path / "a"))
    keys = store._keys()
    store.clear()
    monkeypatch.setattr(store, "_keys", lambda: keys)
    assert store.entries() == []


def test_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("KDNATIVE_STORE", str(tmp_path / "there"))
    assert store_path() == tmp_path / "there" and store_path(str(tmp_path / "x")) == tmp_path / "x"
    monkeypatch.delenv("KDNATIVE_STORE")
    monkeypatch.setenv("KDNATIVE_CACHE", str(tmp_path / "cache"))
    assert store_path() == tmp_path / "cache" / "store"


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KDNATIVE_STORE", str(tmp_path / "s"))
    put(Store(tmp_path / "s"), made(tmp_path / "a", b"x" * 2_500_000))
    assert main(["store", "path"]) == 0 and capsys.readouterr().out.strip() == str(tmp_path / "s")
    assert main(["store"]) == 0
    out = capsys.readouterr().out
    assert "distil" in out and KEY[:12] in out and "2.5 MB" in out and "1 output" in out
    with Store(tmp_path / "s").held("distil", KEY):
        assert main(["store", "clear"]) == 1
        assert "1 output is in use by a run and was kept" in capsys.readouterr().out
    assert main(["store", "clear"]) == 0 and "1 output deleted, 2.5 MB" in capsys.readouterr().out
    assert main(["store", "list", "--store", str(tmp_path / "absent")]) == 0
    assert "nothing" in capsys.readouterr().out


def test_runs_share_the_teacher_and_its_soft_labels(finished, tiny, tmp_path, monkeypatch):
    """Another distillation trains no teacher; its outputs are those of the first run, bit for bit."""
    monkeypatch.setenv("KDNATIVE_STORE", str(finished.path.parent.parent / "store"))
    recipe = changed(tiny, name="other", distil={"temperature": 3.0, "max_steps": 2}, train_baseline=None)
    path = write_recipe(tmp_path / "r.yaml", recipe)
    run = RunFolder(kdnative.run(path, runs=tmp_path / "runs", until="distil", progress=False))
    log = (run.path / "log.txt").read_text(encoding="utf-8")
    assert f"store: {finished.path.parent.parent / 'store'}" in log
    for stage in ("train_teacher", "compress_teacher"):
        assert f"{stage}: taken from the store" in log and run.record(stage) == finished.record(stage)
        run.verify(stage)
    assert "distil: finished" in log and run.record("distil")["digest"] != finished.record("distil")["digest"]


def test_a_recipe_may_say_where(tiny, tmp_path):
    recipe = changed(tiny, store=str(tmp_path / "mine"), train_teacher={"max_steps": 1})
    path = write_recipe(tmp_path / "r.yaml", recipe)
    kdnative.run(path, runs=tmp_path / "runs", until="train_teacher", progress=False)
    assert [e.stage for e in Store(tmp_path / "mine").entries()] == ["train_teacher"]


def test_overwrite_makes_it_again_and_a_damaged_run_repairs_the_store(tiny, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", changed(tiny, train_teacher={"max_steps": 1}))
    options = {"runs": tmp_path / "runs", "until": "train_teacher", "progress": False}
    run = RunFolder(kdnative.run(recipe, **options))
    (weights,) = (run.output("train_teacher") / "model").glob("*.safetensors")
    before = weights.read_bytes()
    with open(weights, "r+b") as file:  # in place: the store's file is the same one
        file.write(b"\1\2\3")
    kdnative.run(recipe, overwrite=True, **options)
    log = (run.path / "log.txt").read_text(encoding="utf-8")
    assert "taken from the store" not in log and weights.read_bytes() == before
    other = write_recipe(tmp_path / "o.yaml", {**json.loads(recipe.read_text()), "name": "other"})
    second = RunFolder(kdnative.run(other, **options))
    assert "train_teacher: taken from the store" in (second.path / "log.txt").read_text(encoding="utf-8")
    assert second.record("train_teacher") == run.record("train_teacher")


def test_clocks_are_not_shared(finished):
    stages = {e.stage for e in Store(finished.path.parent.parent / "store").entries()}
    assert "evaluate" in stages and not stages & {"benchmark", "report"}


def test_a_store_that_cannot_be_written_costs_nothing_but_sharing(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    recipe = changed(tiny, store=str(tmp_path / "file" / "store"), train_teacher={"max_steps": 1})
    path = write_recipe(tmp_path / "r.yaml", recipe)
    run = RunFolder(kdnative.run(path, runs=tmp_path / "runs", until="train_teacher", progress=False))
    assert "no store can be made, so this run shares no outputs" in (run.path / "log.txt").read_text(encoding="utf-8")
    assert run.record("train_teacher") is not None


def test_a_store_that_fails_later_costs_nothing_but_sharing(tiny, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "train_teacher").write_text("no folder")
    path = write_recipe(tmp_path / "r.yaml", changed(tiny, store=str(tmp_path / "s"), train_teacher={"epochs": 0}))
    run = RunFolder(kdnative.run(path, runs=tmp_path / "runs", until="compress_teacher", progress=False))
    assert (run.path / "log.txt").read_text(encoding="utf-8").count("the store can't be used") == 1
    assert run.record("compress_teacher") is not None


def test_schemes_that_differ_are_other_outputs_even_with_the_same_weights(tiny, tmp_path):
    untrained = {"train_teacher": {"epochs": 0}, "train_baseline": None, "prune": None, "distil": {"epochs": 0}}
    digests = {}
    for scheme in ("w8a8", "w4a8-g64"):
        recover = {"epochs": 0, "schemes": scheme}
        path = write_recipe(tmp_path / "r.yaml", changed(tiny, name=scheme, recover=recover, **untrained))
        run = RunFolder(kdnative.run(path, runs=tmp_path / "runs", until="convert", progress=False))
        digests[scheme] = [run.record(stage)["digest"] for stage in ("distil", "recover", "convert")]
        schemes = {row["scheme"] for row in run.metrics("convert")["conversion"]}
        assert scheme in schemes and not schemes & ({"w8a8", "w4a8-g64"} - {scheme})
    same = [a == b for a, b in zip(*digests.values(), strict=True)]
    assert same == [True, False, False]


def test_what_was_begun_elsewhere_is_not_shared(tiny, tmp_path, monkeypatch):
    path = write_recipe(tmp_path / "r.yaml", changed(tiny, store=str(tmp_path / "s"), train_teacher={"epochs": 1}))
    options = {"runs": tmp_path / "runs", "until": "train_teacher", "progress": False}

    class Ended(training._Clock):
        def on_step(self, progress):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_Clock", Ended)
        patch.setattr(runner, "_made_with", lambda *_: {"device": "another"})
        kdnative.run(path, **options)
    run = RunFolder(kdnative.run(path, resume=True, **options))
    assert "train_teacher: not kept in the store" in (run.path / "log.txt").read_text(encoding="utf-8")
    assert Store(tmp_path / "s").entries() == [] and run.record("train_teacher") is not None


def test_keys_hold_what_changes_bits(tiny, tmp_path, monkeypatch):
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml", changed(tiny, teacher={"source": "hub:owner/name"})))
    stage = recipe.active_stages()[0]
    monkeypatch.setattr("kdnative.data.hub.hub_commit", lambda name: f"commit of {name}")
    found = runner._made_with(stage, recipe, "cpu")
    assert found.keys() == {"device", "bf16", "torch", "transformers", "hub:owner/name"}
    assert found["device"] == "cpu" and found["hub:owner/name"] == "commit of owner/name"
    json.dumps(found)
