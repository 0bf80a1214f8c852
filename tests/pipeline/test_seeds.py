"""Several seeds of one recipe: a run for each, medians and ranges, and what is there already is kept."""

from __future__ import annotations

import json

import pytest

from kdnative.cli import main
from kdnative.pipeline import PipelineError, run_seeds, seeds
from tests.pipeline.conftest import changed, write_recipe


def estimate(value: float) -> dict:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def summary(accuracy: float, kept: float | None) -> dict:
    row = {
        "key": "teacher",
        "name": "teacher",
        "accuracy": estimate(accuracy),
        "macro_f1": estimate(0.5),
        "native": {"accuracy": estimate(accuracy - 0.25), "per_class": [1, 2]},
        "kept": kept,
        "latency": {"native": {"p20": 1.0, "p50": 2.0, "p80": 3.0}},
    }
    step = {"stage": "distil", "against": "hard labels", "difference": estimate(accuracy - 0.5), "verdict": "helped"}
    return {"rows": [row], "steps": [step]}


@pytest.fixture
def stubbed(monkeypatch, tmp_path):
    """`run` without models: it writes down its seed and the figures that a test gave for it."""
    ran, given = [], {}

    def run(recipe, *, runs, resume, overwrite, **options):
        ran.append((recipe.name, recipe.seed, resume))
        folder = tmp_path / recipe.name
        for stage in recipe.active_stages():
            output = folder / "stages" / stage.name
            output.mkdir(parents=True, exist_ok=True)
            record = {"stage": stage.name, "seconds": 1.5 * recipe.seed, "digest": "", "files": {}}
            (output / "stage.json").write_text(json.dumps(record), encoding="utf-8")
        (folder / "summary.json").write_text(json.dumps(given[recipe.seed]), encoding="utf-8")
        return folder

    monkeypatch.setattr(seeds, "run", run)
    return ran, given


def test_medians_and_ranges_of_every_figure(stubbed, tiny, tmp_path):
    ran, given = stubbed
    given |= {3: summary(0.75, None), 1: summary(0.5, 0.9), 2: summary(1.0, 0.7)}
    said = []
    path = run_seeds(write_recipe(tmp_path / "r.yaml", tiny), [3, 1, 2], runs=tmp_path, say=said.append)
    assert ran == [("tiny-seed3", 3, False), ("tiny-seed1", 1, False), ("tiny-seed2", 2, False)]
    assert path == tmp_path / "tiny-seeds.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["name"], found["task"], found["seeds"]) == ("tiny", "text-classification", [3, 1, 2])
    assert found["runs"] == ["tiny-seed3", "tiny-seed1", "tiny-seed2"]
    (row,) = found["rows"]
    assert row["key"] == "teacher" and row["figures"].keys() == {
        "accuracy", "macro_f1", "native.accuracy", "kept", "latency.native"
    }  # fmt: skip
    assert row["figures"]["accuracy"] == {"median": 0.75, "low": 0.5, "high": 1.0, "values": [0.75, 0.5, 1.0]}
    assert row["figures"]["kept"] == {"median": 0.8, "low": 0.7, "high": 0.9, "values": [None, 0.9, 0.7]}
    assert row["figures"]["latency.native"]["median"] == 2.0
    (step,) = found["steps"]
    assert (step["key"], step["name"]) == ("distil", "distil, against hard labels")
    difference = {"median": 0.25, "low": 0.0, "high": 0.5, "values": [0.25, 0.0, 0.5]}
    assert step["figures"] == {"difference": difference}
    assert found["seconds"]["distil"] == {"median": 3.0, "low": 1.5, "high": 4.5, "values": [4.5, 1.5, 3.0]}
    assert said[0] == "tiny-seed3: run 1 of 3" and "min left" in said[1]
    table = seeds.format_seeds(found)
    assert "75.0 % [50.0, 100.0]" in table and "80.0 %" in table and "seeds 3, 1, 2" in table


def test_runs_that_are_there_are_kept_or_refused(stubbed, tiny, tmp_path):
    ran, given = stubbed
    given |= {0: summary(0.5, 1.0), 1: summary(0.6, 1.0)}
    recipe = write_recipe(tmp_path / "r.yaml", tiny)
    run_seeds(recipe, [0], runs=tmp_path)
    with pytest.raises(PipelineError, match=r"tiny-seed0 in .* already hold runs: continue with --resume"):
        run_seeds(recipe, [1, 0], runs=tmp_path)
    assert len(ran) == 1  # refused before the run of another seed
    found = json.loads(run_seeds(recipe, [1, 0], runs=tmp_path, resume=True).read_text(encoding="utf-8"))
    assert found["rows"][0]["figures"]["accuracy"]["values"] == [0.6, 0.5]


@pytest.mark.parametrize("wrong", [[], [1, 1], [-1], [2**32]])
def test_seeds_that_are_not_allowed(stubbed, tiny, tmp_path, wrong):
    with pytest.raises(PipelineError, match="seeds must be different whole numbers from 0 to"):
        run_seeds(write_recipe(tmp_path / "r.yaml", tiny), wrong, runs=tmp_path)
    assert stubbed[0] == []


def test_a_name_that_would_be_too_long(stubbed, tiny, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", changed(tiny, name="n" * 96))
    with pytest.raises(PipelineError, match="at most 100 characters"):
        run_seeds(recipe, [0], runs=tmp_path)


def test_the_command_runs_them_and_is_quiet(tiny, tmp_path, capsys):
    short = {"epochs": 1, "max_steps": 1}
    content = changed(tiny, train_teacher=short, distil=short, train_baseline=None, prune=None, recover=None, goals={})
    recipe = write_recipe(tmp_path / "r.yaml", content)
    assert main(["run", str(recipe), "--runs", str(tmp_path / "runs"), "--seeds", "4,7", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert "distil" not in printed.err and "medians of 2 runs (seeds 4, 7)" in printed.out
    log = (tmp_path / "runs" / "tiny-seed7" / "log.txt").read_text(encoding="utf-8")
    assert "distil: starts" in log and "report: finished" in log
    found = json.loads((tmp_path / "runs" / "tiny-seeds.json").read_text(encoding="utf-8"))
    paths = [tmp_path / "runs" / f"tiny-seed{seed}" / "summary.json" for seed in (4, 7)]
    rows = [json.loads(path.read_text(encoding="utf-8"))["rows"][-1] for path in paths]
    assert found["rows"][-1]["figures"]["accuracy"]["values"] == [row["accuracy"]["value"] for row in rows]
    assert main(["run", str(recipe), "--seeds", "1", "--only", "distil"]) == 1
    assert "leave out --only and --until" in capsys.readouterr().err
