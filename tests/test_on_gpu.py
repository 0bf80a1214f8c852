"""``make test-gpu``: limits, results and words, with other commands in the place of its own."""

import json
import sys

import pytest
import torch

from tools import on_gpu


def test_each_step_has_a_limit_and_leaves_its_result(tmp_path, monkeypatch, capsys):
    steps = [
        on_gpu.Step("good", [sys.executable, "-c", "print('fine')"], 60),
        on_gpu.Step("bad", [sys.executable, "-c", "raise SystemExit(9)"], 60),
        on_gpu.Step("slow", [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], 3),
        on_gpu.Step("absent", ["none"], 1, "there is no tool"),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(on_gpu, "steps", lambda folder: steps)
    assert on_gpu.main(["--folder", str(tmp_path)]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert [row.get("code") for row in found] == [0, 9, 124, None] and found[0]["output"] == "fine\n"
    assert found[0]["command"][0] == "python" and found[3] == {"name": "absent", "reason": "there is no tool"}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "good: passed",
        "bad: failed with code 9",
        "slow: ran past its limit",
        "absent: not run: there is no tool",
    ]
    monkeypatch.setattr(on_gpu, "steps", lambda folder: [steps[0], steps[3]])
    assert on_gpu.main(["--folder", str(tmp_path)]) == 0


def test_all_steps_take_ten_minutes_at_most(tmp_path):
    steps = on_gpu.steps(tmp_path)
    assert sum(step.limit for step in steps) <= 600 and len({step.name for step in steps}) == len(steps)


def test_without_a_gpu(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        on_gpu.main(["--folder", str(tmp_path / "new")])
    assert ended.value.code == 2 and "need an NVIDIA GPU" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
