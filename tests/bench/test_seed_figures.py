"""What `make results` keeps of the runs of one recipe."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "seed_figures.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("seed_figures", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spread(*values):
    return {"median": sorted(values)[1], "low": min(values), "high": max(values), "values": list(values)}


@pytest.fixture
def runs(tmp_path) -> Path:
    """Three runs of one recipe, as `kdnative run --seeds 0,1,2` leaves them behind."""
    row = {"accuracy": spread(0.8, 0.7, 0.9), "latency.native": spread(3, 1, 2), "per_class.x": spread(1, 2, 3)}
    seeds = {"name": "r", "task": "text-classification", "seeds": [0, 1, 2], "runs": ["r-seed0", "r-seed1", "r-seed2"]}
    seeds |= {"rows": [{"key": "native", "name": "native", "figures": row}], "seconds": {"distil": spread(5, 6, 7)}}
    data = {"labelled": 5, "unlabelled": 7, "validation": 2, "test": 3}
    files = {"r-seeds.json": seeds}
    files["r-seed0/summary.json"] = {"data": {"source": "a.csv", "labels": ["x", "y"]}, "case": {"batch": 1}}
    files["r-seed0/stages/train_teacher/metrics.json"] = {"data": data, "history": [1, 2, 3]}
    files["r-seed0/stages/benchmark/metrics.json"] = {"environment": {"cpu": "some"}, "latency": []}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_medians_and_what_they_stand_on(script, runs):
    script.main(str(runs), "r", str(runs / "new" / "r.json"))
    found = json.loads((runs / "new" / "r.json").read_text())
    assert found["data"] == {"source": "a.csv", "labelled": 5, "unlabelled": 7, "validation": 2, "test": 3}
    assert found["seeds"] == [0, 1, 2] and found["environment"] == {"cpu": "some"} and found["case"] == {"batch": 1}
    (row,) = found["rows"]
    assert row["figures"]["accuracy"] == {"median": 0.8, "low": 0.7, "high": 0.9, "values": [0.8, 0.7, 0.9]}
    assert row["figures"]["latency.native"]["median"] == 2 and "per_class.x" not in row["figures"]
    assert found["seconds"]["distil"]["median"] == 6


def test_runs_that_are_not_there(script, runs):
    with pytest.raises(FileNotFoundError, match="absent-seeds.json"):
        script.figures_of(runs, "absent")
