"""Kills a miniature pipeline again and again and compares what it ends with to a run that nobody killed.

    python -m tests.pipeline.kills 60

Half of the kills come after a random time, half at a random one of the calls that make something visible on the disk or
final there. Runs are children of a process that has imported everything, and has started no thread that a fork loses.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

import kdnative
from kdnative.files import is_leftover
from kdnative.pipeline import RunFolder, load_recipe
from tests.pipeline.conftest import tiny_recipe, write_data, write_model, write_recipe

CALLS = ("replace", "rename", "fsync", "unlink", "mkdir", "link")
# What a user may keep in a run's folder, one of them under a name like those of half-written files.
OWN = ("NOTES.md", "mine/plot.png", ".draft.tmp", "stages/ideas.txt")
_TIMES = ("latency", "speedup", "models", "environment", "met", "value", "low", "high", "detail")
_ALWAYS_TIMES = ("seconds", "faster", "gain", "findings")  # findings say how long stages took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kills", type=int, nargs="?", default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = kill_and_compare(Path(place), arguments.kills, arguments.seed)
    where = ", ".join(f"{stage} {n}" for stage, n in found["stages"].most_common())
    print(f"{found['kills']} kills in {found['runs']} runs (under way: {where}): every run ended with the same bits")


def kill_and_compare(place: Path, kills: int, seed: int) -> dict:
    """Kills so many times, resumes until each run is finished, and asserts that they end alike.

    Returns:
        ``kills`` and ``runs`` there were, and under ``stages`` how often each was under way when a run was killed.
    """
    model, data = write_model(place / "model"), write_data(place / "data.tsv")
    calibrating = {**tiny_recipe(model, data), "calibrate": {"method": "gptq", "texts": 24, "batch_size": 8}}
    recipe = write_recipe(place / "tiny.yaml", calibrating)
    rng, reference = random.Random(seed), place / "reference"
    started, calls = time.monotonic(), place / "calls"
    assert _wait(_start(recipe, reference, count_into=calls)) == 0
    seconds, total = time.monotonic() - started, int(calls.read_text())
    wanted = content(reference / "tiny")
    stages, done, runs = Counter(), 0, 0
    while done < kills:
        runs += 1
        root = place / f"run{runs}"
        _add_own_files(root / "tiny")
        for attempt in itertools.count():
            assert attempt < 20 + kills, "the run never ends"
            by_call = done % 2 == 1
            limit = rng.randrange(total // 3) if by_call and done < kills else None  # a third: each kill gets further
            child = _start(recipe, root, kill_at=limit)
            if not by_call and done < kills:
                _kill_after(child, rng.uniform(0.0, seconds / 2))
            status = _wait(child)
            if status == 0:
                break
            assert status == -signal.SIGKILL, (root / "tiny" / "log.txt").read_text()
            done += 1
            stages[_under_way(root / "tiny", recipe)] += 1
        _compare(content(root / "tiny"), wanted)
        _check_own_files(root / "tiny")
    return {"kills": done, "runs": runs, "stages": stages}


def _start(recipe: Path, runs: Path, kill_at: int | None = None, count_into: Path | None = None) -> int:
    """Starts a run in a child, which may kill itself before so many calls, or count them; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        counter = _count_calls(kill_at)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        os.environ["KDNATIVE_STORE"] = str(runs / "store")  # else it would have everything after the first run
        kdnative.run(recipe, runs=runs, resume=True, progress=False)
        if count_into is not None:
            count_into.write_text(str(next(counter)))
        code = 0
    finally:
        os._exit(code)


def _count_calls(kill_at: int | None) -> itertools.count:
    counter = itertools.count()

    def counting(call):
        def counted(*arguments, **options):
            if next(counter) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counted

    for name in CALLS:
        setattr(os, name, counting(getattr(os, name)))
    return counter


def _kill_after(child: int, seconds: float) -> None:
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)  # nobody has waited for it yet, so the number is still its own


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _under_way(folder: Path, recipe: Path) -> str:
    run = RunFolder(folder)
    return next((s.name for s in load_recipe(recipe).active_stages() if not run.output(s.name).is_dir()), "at the end")


def content(folder: Path) -> dict:
    """What a finished run has made, but for times, by file; asserts that nothing else is left of it."""
    run = RunFolder(folder)
    run.open()  # the lock of whoever was killed is gone
    run.close()
    found = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        name = file.relative_to(folder).as_posix()
        assert name in OWN or not is_leftover(file), f"left behind: {name}"
        assert ".partial/" not in name and ".discarded/" not in name and file.name != "training.state", name
        if name in OWN or file.name in (".lock", "log.txt", "run.json", "report.html", "report.json", "summary.txt"):
            continue
        if name == "student/README.md":  # states the latency
            continue
        found[name] = _without_times(json.loads(file.read_text())) if file.suffix == ".json" else file.read_bytes()
    assert {"summary.json", "stages/compress_teacher/soft_labels.safetensors"} <= set(found)
    assert "stages/calibrate/calibration.safetensors" in found
    assert sum(name.startswith("stages/convert/model/") for name in found) > 1
    for name in ("benchmark/stage.json", "report/stage.json", "report/origin.json"):  # digests of times
        found.pop(f"stages/{name}")
    return found


def _without_times(value):
    if isinstance(value, dict):
        timed = _TIMES if "latency" in value or "goals" in value or "unit" in value or "environment" in value else ()
        own = {k: v for k, v in value.items() if k not in timed and k not in _ALWAYS_TIMES}
        return {key: _without_times(inner) for key, inner in own.items()}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def _compare(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys(), sorted(found.keys() ^ wanted.keys())
    assert not (changed := [name for name in wanted if found[name] != wanted[name]]), changed


def _add_own_files(folder: Path) -> None:
    for name in OWN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} is mine")


def _check_own_files(folder: Path) -> None:
    for name in OWN:
        assert (folder / name).read_text() == f"{name} is mine"


if __name__ == "__main__":
    torch.set_num_threads(1)  # before anything has started a second one
    sys.exit(main())
