"""A run that is killed and continued ends with the same bits as one that is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdnative.data import Batches
from kdnative.distill import HardLabelLoss, ResumeError, TrainConfig, train
from tests.distill import resume_script
from tests.distill.tiny import model, tokens

ROOT = Path(__file__).parents[2]
STEPS = 32  # 60 examples in batches of 8, 4 epochs


def start(state: Path, result: Path, accumulation: int, pause: float = 0.0) -> subprocess.Popen:
    arguments = [str(state), str(result), str(pause), str(accumulation)]
    command = [sys.executable, "-m", "tests.distill.resume_script", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)


def finish(state: Path, result: Path, accumulation: int) -> list[int]:
    process = start(state, result, accumulation)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    return [int(line) for line in out.split()]


@pytest.mark.parametrize("accumulation", [1, 4])
def test_killed_run_ends_with_the_same_bits(tmp_path, capsys, accumulation):
    resume_script.main(str(tmp_path / "a.pt"), str(tmp_path / "a-result.pt"), 0.0, accumulation)
    assert capsys.readouterr().out.split() == [str(i + 1) for i in range(STEPS)]

    process = start(tmp_path / "b.pt", tmp_path / "b-result.pt", accumulation, pause=0.05)
    for line in process.stdout:
        if int(line) == 13:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.read()
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.stdout.close()
    assert not (tmp_path / "b-result.pt").exists()
    # nothing but the state (and at most one unfinished temporary file beside it) was left behind
    assert (tmp_path / "b.pt").exists()

    steps = finish(tmp_path / "b.pt", tmp_path / "b-result.pt", accumulation)
    assert steps[-1] == STEPS
    assert 1 < steps[0] <= 15, "the run did not continue from the middle"

    a, b = (torch.load(tmp_path / f"{name}-result.pt", weights_only=True) for name in "ab")
    assert a["calls"] == b["calls"] == STEPS
    assert a["epochs"] == b["epochs"]
    for part in ("model", "loss"):
        assert a[part].keys() == b[part].keys()
        for name in a[part]:
            assert torch.equal(a[part][name], b[part][name]), name


def run(path, resume, **changed):
    student = model(0)
    batches = changed.pop("batches", Batches(tokens(20), 8, shuffle=True))
    loss, callbacks = changed.pop("loss", HardLabelLoss()), changed.pop("callbacks", ())
    config = TrainConfig(**{"epochs": 2, "lr": 1e-2, "device": "cpu", "precision": "fp32", **changed})
    history = train(student, batches, loss, config, callbacks=callbacks, state_path=path, resume=resume)
    return student, history


class Untouched:
    def on_step(self, progress):
        pytest.fail("trained again")


def test_finished_run_is_returned_as_it_was(tmp_path):
    first, history = run(tmp_path / "s.pt", False)
    again, same = run(tmp_path / "s.pt", True, callbacks=[Untouched()])
    assert history == same
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_existing_state_is_not_overwritten_without_resume(tmp_path):
    run(tmp_path / "s.pt", False)
    before = (tmp_path / "s.pt").read_bytes()
    with pytest.raises(ResumeError, match="resume=True to continue it"):
        run(tmp_path / "s.pt", False)
    assert (tmp_path / "s.pt").read_bytes() == before


def test_resume_without_a_state_starts_afresh(tmp_path):
    assert run(tmp_path / "new" / "s.pt", True)[1].steps == 6
    assert (tmp_path / "new" / "s.pt").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 2e-2}, "lr: was 0.01, now 0.02"),
        ({"epochs": 3}, "epochs: was 2, now 3"),
        ({"batches": Batches(tokens(20, seed=1), 8, shuffle=True)}, "data: was"),
        ({"batches": Batches(tokens(20), 8, shuffle=True, seed=1)}, "data: was"),
        ({"loss": HardLabelLoss(weight=2.0)}, "hard.weight: was 1.0, now 2.0"),
        ({"loss": HardLabelLoss(name="other")}, "other.weight: was None, now 1.0"),
        ({"accumulation": 2}, "accumulation: was 1, now 2"),
        ({"precision": "bf16"}, "precision: was fp32, now bf16"),
    ],
)
def test_state_of_another_run_is_refused(tmp_path, changed, message):
    run(tmp_path / "s.pt", False)
    with pytest.raises(ResumeError, match=message):
        run(tmp_path / "s.pt", True, **changed)


def test_state_that_is_cut_short_or_hostile_is_refused(tmp_path):
    path = tmp_path / "s.pt"
    run(path, False)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a state"):
        path.write_bytes(content)
        with pytest.raises(ResumeError, match="not a readable training state"):
            run(path, True)
    marker = tmp_path / "executed"
    torch.save(Hostile(str(marker)), path)
    with pytest.raises(ResumeError, match="not a readable training state"):
        run(path, True)
    assert not marker.exists()


class Hostile:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))
