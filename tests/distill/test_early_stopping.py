"""Training that ends when nothing gets better: when, with which weights, and the same after an interruption."""

from __future__ import annotations

import pytest
import torch

from kdnative.data import Batches
from kdnative.distill import Callback, HardLabelLoss, TrainConfig, train
from tests.distill.tiny import model, tokens


class Scripted:
    """A validation that gives these values, one an epoch."""

    def __init__(self, values: list[float]) -> None:
        self.values, self.weights = iter(values), []

    def evaluate(self, model) -> dict[str, float]:
        self.weights.append(model.classifier.weight.detach().clone())
        return {"score": next(self.values)}


def fit(values, patience, direction="max", epochs=8, **options):
    student, validation = model(0), Scripted(values)
    config = TrainConfig(
        epochs, 1e-2, device="cpu", precision="fp32", select_by=("score", direction), early_stopping=patience
    )
    history = train(student, Batches(tokens(16), 8), HardLabelLoss(), config, validation=validation, **options)
    return student, history, validation


@pytest.mark.parametrize(
    ("values", "patience", "direction", "epochs", "best"),
    [
        ([1, 2, 2, 1, 9], 2, "max", 4, 1),  # a tie is no improvement
        ([3, 2, 4, 1, 2, 2, 2, 9], 3, "min", 7, 3),  # one that comes in time starts the count anew
        ([1, 0, 9], 1, "max", 2, 0),
        ([float("nan"), float("nan"), 9], 2, "max", 2, None),
        ([1, 2, 3, 4, 5, 6, 7, 8], 1, "max", 8, 7),
    ],
)
def test_ends_after_epochs_without_anything_better(values, patience, direction, epochs, best):
    student, history, validation = fit(values, patience, direction)
    assert (len(history.epochs), history.steps, history.best) == (epochs, 2 * epochs, best)
    kept = validation.weights[epochs - 1 if best is None else best]
    assert torch.equal(student.classifier.weight, kept)


class Interrupted(Exception):
    pass


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, progress) -> None:
        if progress.step == self.step:
            raise Interrupted


VALUES = [1.0, 3.0, 2.0, 2.5, 9.0]


@pytest.mark.parametrize(("step", "seen"), [(3, 1), (6, 2), (8, 3)])
def test_goes_on_and_ends_with_the_same_bits(tmp_path, step, seen):
    """Interrupted before and between the epochs that bring nothing; `seen` epochs were over by then."""
    whole, history, _ = fit(VALUES, 2)
    state = tmp_path / "state"
    with pytest.raises(Interrupted):
        fit(VALUES, 2, state_path=state, save_every=1, callbacks=[StopAt(step)])
    resumed, later, _ = fit(VALUES[seen:], 2, state_path=state, save_every=1, resume=True, callbacks=[StopAt(99)])
    assert (later.epochs, later.best, later.steps) == (history.epochs, 1, history.steps) and later.steps == 8
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_training_that_was_over_stays_over(tmp_path):
    first, history, _ = fit(VALUES, 2, state_path=tmp_path / "state")
    again, later, _ = fit([], 2, state_path=tmp_path / "state", resume=True)
    assert later == history and torch.equal(first.classifier.weight, again.classifier.weight)


@pytest.mark.parametrize("options", [{"early_stopping": 0, "select_by": ("loss", "min")}, {"early_stopping": 2}])
def test_settings_that_can_not_be(options):
    with pytest.raises(ValueError, match="at least 1 epoch, and a metric"):
        TrainConfig(3, 1e-3, **options)
