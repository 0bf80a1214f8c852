"""A minute of fuzzing, everything that fuzzing has found before, and whether it would notice."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.guided import Choices
from tests.fuzz.planted import DEFECTS
from tests.fuzz.run import load
from tests.fuzz.worker import rng_of

INPUTS = {"checkpoint": 800, "operators": 800, "recipes": 200, "data": 200}
ROOT = Path(__file__).parents[2]


def fuzz(folder, *arguments):
    """In a process of its own: where torch has a pool of threads, as other tests need one, its forks can't compute."""
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        "--json",
        folder / "results",
        "--keep",
        folder / "kept",
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert (folder / "results").exists(), done.stderr
    results = {result["target"]: result for result in json.loads((folder / "results").read_text())}
    assert done.returncode == any(result["findings"] for result in results.values())
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    targets = [f"{name}={inputs}" for name, inputs in INPUTS.items()]
    return fuzz(tmp_path_factory.mktemp("fuzz"), *targets, "regressions")


@pytest.mark.parametrize("target", [*INPUTS, "regressions"])
def test_every_input_works_or_is_refused_in_words(results, target):
    result = results[target]
    assert result["findings"] == {}
    assert result["inputs"] == result["worked"] + result["refused"] == INPUTS.get(target, result["inputs"])
    assert result["refused"] > result["worked"] > 0  # what is made is neither all harmless nor all hopeless


def test_planted_defects_are_noticed(tmp_path):
    result = fuzz(tmp_path, "planted", "--deadline", "1")["planted"]
    kinds = {number: place.partition(":")[0] for place, numbers in result["findings"].items() for number in numbers}
    assert kinds == {2 * i + 1: kind for i, kind in enumerate(DEFECTS.values())}
    assert result["worked"] + result["refused"] == len(DEFECTS)
    kept = [folder / "finding.txt" for folder in (tmp_path / "kept").iterdir()]
    assert len(kept) == len(DEFECTS) and all("--only" in file.read_text() for file in kept)


@pytest.mark.parametrize("name", INPUTS)
def test_a_number_is_always_the_same_input(tmp_path, name):
    target = load(name, tmp_path / "seeds")
    for number in range(20):
        for attempt in "ab":
            target.save(target.make(number, rng_of(name, 7, number)), tmp_path / f"{number}{attempt}")
        a, b = ({f.name: f.read_bytes() for f in (tmp_path / f"{number}{x}").iterdir() if f.is_file()} for x in "ab")
        assert a == b
    assert target.describe(target.make(0, Choices(b"")))  # an input of atheris may be empty
    assert target.describe(target.make(1, random.Random(1))) != target.describe(target.make(1, random.Random(2)))
