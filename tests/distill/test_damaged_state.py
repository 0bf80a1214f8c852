"""Training states that rotted, were cut short, or lack something: refused in words before anything is trained."""

from __future__ import annotations

import os

import pytest
import torch

from kdnative.data import Batches
from kdnative.distill import HardLabelLoss, ResumeError, TrainConfig, train
from kdnative.distill.state import read_state, write_state
from tests.distill.tiny import model, tokens


class Counting:
    """A callback with a state of its own."""

    calls = 0

    def on_step(self, progress):
        self.calls += 1

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def run(path, callback=None):
    student, data = model(0), tokens(20)
    config = TrainConfig(epochs=2, lr=1e-2, device="cpu", precision="fp32", select_by=("accuracy", "max"))
    options = {"validation": Batches(data, 8), "callbacks": [callback or Counting()]}
    batches = Batches(data, 8, shuffle=True)
    return train(student, batches, HardLabelLoss(), config, **options, state_path=path, resume=True)


def refuse(path) -> str:
    class Untouched(Counting):
        def on_step(self, progress):
            pytest.fail("trained")

    with pytest.raises(ResumeError) as caught:
        run(path, Untouched())
    return str(caught.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "training.state"
    run(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, saved):
    (tmp_path / "training.state").write_bytes(saved)
    return tmp_path / "training.state"


def test_every_bit_counts(path, saved):
    """One bit of each of the first and last bytes, and of many between: data, names, padding, and the seal itself."""
    places = {*range(300), *range(len(saved) - 300, len(saved)), *range(0, len(saved), max(1, len(saved) // 300))}
    for place in places:
        changed = bytearray(saved)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(ResumeError, match="training.state is not a readable training state: it "):
            read_state(path)


@pytest.mark.parametrize("length", [0, 1, 10, 95, 96, 97, 0.5, -1])
def test_states_that_were_cut_short(path, saved, length):
    os.truncate(path, int(length * len(saved)) if isinstance(length, float) else length % len(saved))
    assert "it is truncated, or has another version; delete the file to start the training again" in refuse(path)


def test_what_is_no_state(path):
    path.write_bytes(os.urandom(5000))
    assert "not a readable training state" in refuse(path)
    torch.save({"format": 1, "run": {}}, path)
    assert "it is truncated, or has another version" in refuse(path)
    path.unlink()
    os.mkfifo(path)
    assert "it is not a file" in refuse(path)
    path.unlink()
    path.mkdir()
    assert "it is not a file" in refuse(path)


@pytest.mark.parametrize(
    "entry",
    [
        *((key,) for key in ("run", "parts", "random", "history", "weights", "sums")),
        *(("parts", key) for key in ("model", "loss", "optimizer", "callback 0")),
        ("parts", "model", "hidden.weight"),
        ("parts", "optimizer", "state"),
        ("parts", "callback 0", "calls"),
        ("run", "lr"),
        *(("history", key) for key in ("epochs", "steps", "best")),
        *(("random", key) for key in ("torch", "python", "numpy")),
    ],
)
def test_states_that_lack_an_entry(path, entry):
    state = read_state(path)
    inner = state
    for key in entry[:-1]:
        inner = inner[key]
    del inner[entry[-1]]
    write_state(path, {key: value for key, value in state.items() if key != "format"})  # it vouches for itself
    words = refuse(path)
    assert str(path) in words and "delete the file" in words and "\n" not in words


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, 3) for key in ("run", "parts", "random", "history", "weights", "sums")),
        ("format", 99),
        ("random", {"torch": 1, "python": 2, "numpy": 3}),
        ("parts", {name: {} for name in ("model", "loss", "optimizer", "callback 0")}),
        ("parts", {name: None for name in ("model", "loss", "optimizer", "callback 0")}),
        ("history", {"epochs": [1], "steps": 3, "best": None}),
        ("history", {"epochs": [{}], "steps": "3", "best": None}),
        ("history", {"epochs": [{}], "steps": 3, "best": 7}),
        ("weights", {"nothing": torch.ones(1)}),
    ],
)
def test_entries_of_another_kind(path, key, value):
    write_state(path, {**read_state(path), key: value})
    words = refuse(path)
    assert str(path) in words and "delete the file" in words and "\n" not in words
