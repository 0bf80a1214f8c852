"""Runs with several seeds: what is kept of them, and the table that a document shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdnative import cli
from kdnative.bench.seed_figures import seed_figures
from kdnative.machine.environment import environment


def spread(*values):
    known = sorted(value for value in values if value is not None)
    return {"median": known[len(known) // 2], "low": known[0], "high": known[-1], "values": list(values)}


@pytest.fixture
def runs(tmp_path) -> Path:
    """Three runs of one recipe, as `kdnative run --seeds 0,1,2` leaves them behind."""
    native = {
        "accuracy": spread(0.8, 0.7, 0.9),
        "kept": spread(0.95, None, 0.97),
        "bytes": spread(14_400_000, 14_400_000, 14_400_000),
        "latency.native": spread(3, 1, 2),
        "native.per_class.secret": spread(1, 2, 3),
        "per_class.secret": spread(1, 2, 3),
    }
    step = {"key": "distil", "name": "distil, against hard labels alone"}
    seeds = {
        "name": "r",
        "task": "text-classification",
        "seeds": [0, 1, 2],
        "runs": ["r-seed0", "r-seed1", "r-seed2"],
        "rows": [
            {"key": "teacher", "name": "teacher", "figures": {"accuracy": spread(0.85, 0.85, 0.85)}},
            {"key": "native", "name": "quantized, native", "figures": native},
        ],
        "steps": [{**step, "figures": {"difference": spread(0.02, 0.0001, 0.03)}}],
        "seconds": {"distil": spread(5, 6, 7)},
    }
    measures = [{"key": "accuracy", "name": "accuracy", "percent": True, "short": "acc"}]
    data = {"source": "/home/somebody/mine.csv", "labels": ["secret", "y"], "sizes": {"labelled": 5, "test": 3}}
    case = {"batch": 1, "tokens": 32, "threads": 2}
    files = {
        "runs/r-seeds.json": seeds,
        "runs/r-seed0/summary.json": {"task": {"measures": measures}, "data": data},
        "runs/r-seed0/stages/benchmark/metrics.json": {"environment": environment(2), "case": case},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path / "runs"


def test_figures_become_a_file_and_a_table(runs, tmp_path):
    (tmp_path / "README.md").write_text("<!-- table: seeds runs/r-seeds.json -->\n<!-- end -->\n")
    assert cli.main(["bench", "readme", "--root", str(tmp_path), "--run", str(runs / "r-seeds.json")]) == 0
    text = (tmp_path / "benchmarks/results/runs/r-seeds.json").read_text()
    kept = json.loads(text)
    assert "secret" not in text and "somebody" not in text
    assert kept["suite"] == "seeds" and kept["seeds"] == [0, 1, 2]
    assert kept["data"] == {"source": "mine.csv", "sizes": {"labelled": 5, "test": 3}}
    assert kept["rows"][1]["figures"].keys() == {"accuracy", "kept", "bytes", "latency.native"}
    assert kept["rows"][1]["figures"]["accuracy"] == spread(0.8, 0.7, 0.9)
    assert kept["steps"][0]["figures"] == {"difference": spread(0.02, 0.0001, 0.03)}
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert lines[1].startswith("`kdnative run --seeds 0,1,2`, r, ")
    assert "| teacher | 85.0 % | - | - | - |" in lines
    assert "| quantized, native | 80.0 % [70.0, 90.0] | 97.0 % [95.0, 97.0] | 14.4 | 2.00 [1.00, 3.00] |" in lines
    assert "| distil, against hard labels alone | +2.0 [0.0, +3.0] |" in lines
    assert "Medians of 3 runs" in lines[-2] and lines[-2].endswith("Latency at batch 1 x 32 tokens, 2 threads.")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r-seeds.json", None, "r-seeds.json is missing: give the file that `kdnative run --seeds` wrote"),
        ("r-seeds.json", "{", "can't read .*r-seeds.json"),
        ("r-seeds.json", "{}", "r-seeds.json has no name, seeds, runs, rows, steps, seconds"),
        ("r-seed0/summary.json", None, "summary.json is missing"),
    ],
)
def test_what_can_not_be_read_is_named(runs, name, content, words):
    (runs / name).unlink()
    if content is not None:
        (runs / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        seed_figures(runs / "r-seeds.json")
