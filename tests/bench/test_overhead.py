"""The overhead suite: both calls of a pair compute the same, and the cost is their difference."""

import json
import time

import pytest
import torch

from kdnative.bench import overhead
from kdnative.machine.timer import Timing

pytest.importorskip("transformers", reason='needs pip install "kdnative[pipeline]"')


def _tensor(result):
    return result if isinstance(result, torch.Tensor) else result.last_hidden_state


def test_module_and_operator_compute_the_same():
    with torch.inference_mode():
        for name, (module, operator) in overhead.pairs().items():
            assert torch.equal(_tensor(module()), operator()), name


def test_the_cost_is_the_median_of_the_differences():
    timings = {"module": Timing((5e-6, 7e-6, 90e-6), 1), "operator": Timing((4e-6, 4e-6, 4e-6), 1)}
    ours = overhead._case("kdnative.nn.Thing", timings)
    assert ours == {
        "name": "kdnative.nn.Thing", "ours": True, "module": [5e-6, 7e-6, 9e-5], "operator": [4e-6, 4e-6, 4e-6],
    }  # fmt: skip
    assert overhead.cost(ours)[1] == pytest.approx(3.0)
    (goal,) = overhead.goals({**ours, "module": [3.5e-6], "operator": [0.0]})
    assert goal["met"] is False and goal["limit"] == 3.0
    assert overhead.goals(overhead._case("torch.nn.Linear", timings)) == []


def test_a_slow_forward_in_python_is_seen(monkeypatch):
    real = overhead.pairs()
    name, (module, operator) = next(iter(real.items()))

    def slow():
        end = time.perf_counter() + 200e-6
        while time.perf_counter() < end:
            pass
        return module()

    monkeypatch.setattr(overhead, "pairs", lambda: {name: (slow, operator)})
    (case,) = overhead.run(rounds=3)["cases"]
    assert overhead.cost(case)[1] > 150 and not overhead.goals(case)[0]["met"]


def test_the_command_writes_json(tmp_path, capsys):
    assert overhead.main(["--rounds", "1", "--json", str(tmp_path / "o.json")]) == 0
    found = json.loads((tmp_path / "o.json").read_text())
    names = [case["name"] for case in found["cases"]]
    assert names == [*(n for n in names if n.startswith("kdnative.")), "torch.nn.Linear"]
    assert {"kdnative.nn.Linear w8a8", "kdnative.nn.Encoder w8a8"} < set(names)
    assert found["environment"]["threads"] == 1 and "Python's part < 3 us" in capsys.readouterr().out
