"""Several batches in one step: the gradient of one large batch, whatever each term of the loss counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdnative.data import Batches, TokenizedDataset
from kdnative.distill import (
    Callback,
    HardLabelLoss,
    HiddenStateLoss,
    LossTerms,
    SoftLabelLoss,
    SoftTargetLoss,
    TargetLoss,
    TrainConfig,
    train,
)
from kdnative.distill.terms.hard import IGNORED
from tests.distill.tiny import batch, model, tokens


class Gradients(Callback):
    """The gradients of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_step(self, progress) -> None:
        self.steps.append({name: p.grad.clone() for name, p in progress.model.named_parameters()})


def with_labels(data: TokenizedDataset, labels: np.ndarray) -> TokenizedDataset:
    return TokenizedDataset(data.ids, data.offsets, labels, 0, data.source)


def some_labelled(of: list[int], n: int = 24) -> TokenizedDataset:
    """Texts of 2 to 8 tokens, of which only these have a label."""
    data = tokens(n)
    labels = np.full(n, IGNORED)
    labels[of] = data.labels[of]
    return with_labels(data, labels)


def one_epoch(data, loss, size: int, accumulation: int, *, classes: int = 2) -> tuple[list, dict]:
    student, teacher, seen = model(0, dropout=0.0, classes=classes), model(3, classes=classes), Gradients()
    config = TrainConfig(1, 1e-3, clip_norm=None, accumulation=accumulation, precision="fp32", device="cpu")
    batches = Batches(data, size, by_length=False)
    history = train(student, batches, loss, config, teachers=[teacher], callbacks=[seen])
    return seen.steps, history.epochs[0]


def assert_same(data, loss, *, classes: int = 2) -> None:
    large, first = one_epoch(data, loss, 24, 1, classes=classes)
    small, second = one_epoch(data, loss, 6, 4, classes=classes)
    assert len(large) == len(small) == 1
    for name, gradient in large[0].items():
        assert gradient.abs().max() > 0 or name.startswith("embedding")
        torch.testing.assert_close(small[0][name], gradient, rtol=1e-5, atol=1e-7)
    assert second == pytest.approx(first, rel=1e-5)


# Of batches of six: two labels, none, five, one.
UNEVEN = [0, 3, 12, 13, 14, 16, 17, 20]


@pytest.mark.parametrize("labelled", [UNEVEN, [7], list(range(24))])
@pytest.mark.parametrize("weights", [None, [0.25, 3.0]])
def test_labels_in_part_and_class_weights(labelled, weights):
    terms = [HardLabelLoss(weight=0.7, class_weights=weights, label_smoothing=0.1), SoftLabelLoss(3.0)]
    assert_same(some_labelled(labelled), LossTerms(terms))
    assert_same(some_labelled(labelled), LossTerms(terms[:1]))


def test_hidden_states_count_tokens():
    assert_same(tokens(24), LossTerms([HiddenStateLoss({0: 0, 1: 1}, 8, 8), HardLabelLoss()]))


def test_targets_in_part():
    data = tokens(24)
    targets = np.linspace(-1, 1, 24, dtype=np.float32)
    targets[[1, 2, 3, 6, 7, 8, 9, 10, 11]] = np.nan
    assert_same(with_labels(data, targets), LossTerms([TargetLoss(), SoftTargetLoss(weight=0.5)]), classes=1)


def test_shares_by_hand():
    """Class weights 1 and 4: the batches weigh 1 + 4 and 4 in the mean of labels; they have 3 and 1 examples."""
    batches = [batch(torch.tensor([0, IGNORED, 1])), batch(torch.tensor([1]))]
    hard, soft = HardLabelLoss(class_weights=[1.0, 4.0]), SoftLabelLoss()
    first, second = LossTerms([hard, soft]).shares(batches)
    assert first == pytest.approx({"hard": 5 / 9, "soft": 3 / 4}) and second == pytest.approx(
        {"hard": 4 / 9, "soft": 1 / 4}
    )


def test_shares_where_nothing_has_a_label():
    batches = [batch(torch.tensor([IGNORED] * 3)), batch(torch.tensor([IGNORED]))]
    assert [shares["hard"] for shares in LossTerms([HardLabelLoss()]).shares(batches)] == [0.0, 0.0]


def test_steps_without_labels_do_not_count_in_the_mean_of_their_term():
    """Two steps, the first of which has no label: the mean is the second one's alone."""
    terms = LossTerms([HardLabelLoss(), SoftLabelLoss()])
    data = some_labelled([12, 15, 20])
    _, entry = one_epoch(data, terms, 12, 1)
    student, seen = model(0, dropout=0.0), []

    class Parts(Callback):
        def on_step(self, progress) -> None:
            seen.append({name: float(part) for name, part in terms.parts.items()})

    config = TrainConfig(1, 1e-3, clip_norm=None, precision="fp32", device="cpu")
    train(student, Batches(data, 12, by_length=False), terms, config, teachers=[model(3)], callbacks=[Parts()])
    assert [step["hard"] > 0 for step in seen] == [False, True]
    assert entry["hard"] == pytest.approx(seen[1]["hard"], rel=1e-6)
    assert entry["soft"] == pytest.approx((seen[0]["soft"] + seen[1]["soft"]) / 2, rel=1e-6)
    _, entry = one_epoch(some_labelled([]), terms, 12, 1)
    assert "hard" not in entry and entry["soft"] > 0


def test_labels_of_tokens_count_tokens():
    batches = [batch(torch.tensor([[0, 1, IGNORED], [1, 1, 1]])), batch(torch.tensor([[0, IGNORED]]))]
    first, second = LossTerms([HardLabelLoss(), SoftLabelLoss()]).shares(batches)
    assert first == pytest.approx({"hard": 5 / 6, "soft": 5 / 6}) and second == pytest.approx(
        {"hard": 1 / 6, "soft": 1 / 6}
    )
