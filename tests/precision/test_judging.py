"""Drops by the metric's formula, and the number of examples that would show them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdnative.precision.bounds import share_high
from kdnative.precision.judging import Drop, Judge
from kdnative.precision.metrics import METRICS, Answers, drops


def answered(outputs, kind="classes", owners=None, rows=None):
    rows = [np.arange(len(outputs))] if rows is None else rows
    return Answers(kind, [outputs], owners, rows, bool(torch.isfinite(outputs).all()))


def two(n=50, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, classes, generator=generator)
    return a, a + 0.5 * torch.randn(n, classes, generator=generator)


def test_drops_are_the_formulas():
    a, b = two()
    labels = torch.randint(4, (50,), generator=torch.Generator().manual_seed(1)).numpy()
    p, q = a.double().softmax(-1), b.double().softmax(-1)
    expected = {
        "agreement": (a.argmax(1) != b.argmax(1)).double(),
        "accuracy": torch.from_numpy((a.argmax(1).numpy() == labels) * 1.0 - (b.argmax(1).numpy() == labels)),
        "kl": (p * (p / q).log()).sum(1),
        "cosine": 1 - (a * b).sum(1).double() / (a.norm(dim=1) * b.norm(dim=1)).double(),
        "mse": (a - b).double().square().mean(1),
    }
    assert expected.keys() == METRICS.keys()
    for name, values in expected.items():
        found = drops(METRICS[name], answered(a), answered(b), labels)
        assert found == pytest.approx(values.numpy(), rel=1e-5, abs=1e-7), name


def test_batches_in_any_order_give_the_examples_order():
    a, b = two(6)
    rows = [np.array([4, 1]), np.array([0, 5, 2, 3])]
    cut = [Answers("classes", [x[r] for r in rows], None, rows) for x in (a, b)]
    whole = drops(METRICS["kl"], answered(a), answered(b), None)
    assert drops(METRICS["kl"], *cut, None) == pytest.approx(whole) and torch.equal(cut[0].joined(), a)


def test_tokens_are_averaged_in_their_example():
    a, b = two(5)
    owners = [torch.tensor([0, 0, 0, 2, 2])]  # the second example has no token
    found = drops(METRICS["kl"], answered(a, "tokens", owners, [np.arange(3)]),
                  answered(b, "tokens", owners, [np.arange(3)]), None)  # fmt: skip
    each = drops(METRICS["kl"], answered(a), answered(b), None)
    assert found == pytest.approx([each[:3].mean(), 0, each[3:].mean()])


def test_a_model_that_gives_nan_has_lost_everything():
    a, b = two()
    b[3, 1] = math.nan
    judge = Judge(METRICS["kl"], answered(a), None, 0.95)
    assert judge.drop(answered(b)) == Drop(math.inf, math.inf, 50)
    assert judge.examples_needed(judge.drop(answered(b)), 0.1) is None
    with pytest.raises(ValueError, match="the float model gives NaN"):
        Judge(METRICS["kl"], answered(b), None, 0.95)


def test_a_drop_that_is_infinite_or_no_number_is_foreseen_on_any_number_of_examples():
    a, b = two()
    b[3, 1] = math.inf
    for metric in (METRICS["agreement"], METRICS["kl"], METRICS["accuracy"]):
        judge = Judge(metric, answered(a), np.zeros(50, int), 0.95)
        assert judge.foreseen(judge.drop(answered(b)), 1000) == math.inf
        assert judge.examples_needed(judge.drop(answered(b)), 0.1) is None
    nothing = Judge(lambda outputs, labels: math.nan, answered(a), None, 0.95)
    assert nothing.drop(answered(a)) == Drop(math.inf, math.inf, 50)


def right(outputs, labels):
    return (outputs.argmax(-1) == labels).double()


def test_one_score_of_a_model_that_never_differs_is_not_known_to_be_the_same():
    """As many answers as can differ unseen count as other ones: about as for agreement, where the bound is exact."""
    a, _ = two(400, classes=2)
    judge = Judge(lambda o, y: float(right(o, y).mean()), answered(a), a.argmax(1).numpy(), 0.95)
    drop, exact = judge.drop(answered(a.clone())), share_high(0, 400, 0.95)
    assert drop.value == 0 and 0.6 * exact < drop.bound < 2 * exact
    with pytest.raises(ValueError, match="gives the same score for all examples and answers"):
        Judge(lambda outputs, labels: 0.75, answered(a), None, 0.95).drop(answered(a))


def test_scores_of_examples_that_never_differ_are_bounded_by_the_span_of_scores():
    a, _ = two(400, classes=2)
    labels = a.argmax(1).numpy()
    labels[0] = 1 - labels[0]
    drop = Judge(lambda o, y: 5 * right(o, y), answered(a), labels, 0.95).drop(answered(a.clone()))
    assert drop.value == 0 and drop.bound == pytest.approx(5 * share_high(0, 400, 0.95)) == drop.unseen


def test_yes_and_no_are_told_by_the_metric_and_not_by_the_values():
    """Divergences that happen to be 0, and shares of tokens that happen to be 0 or 1, are no counts of examples."""
    a, b = two(400)
    labels = a.argmax(1).numpy()
    same = {name: Judge(metric, answered(a), labels, 0.95).drop(answered(a.clone())).bound
            for name, metric in METRICS.items()}  # fmt: skip
    assert same["agreement"] == share_high(0, 400, 0.95) and same["kl"] == pytest.approx(0, abs=1e-9)
    assert same["accuracy"] == pytest.approx(share_high(0, 400, 0.975)), "a difference, even where nothing differs"
    owners = [torch.arange(400)]
    tokens = Judge(METRICS["agreement"], answered(a, "tokens", owners, [np.arange(400)]), None, 0.95)
    assert tokens.kind == "mean" and tokens.least(0.5) == 300 and tokens.least(0.001) == 2995
    classes = Judge(METRICS["accuracy"], answered(a), labels, 0.95)
    assert (classes.kind, classes.least(0.05)) == ("difference", 72)
    changed = b.clone()
    changed[:] = a
    changed[:4] = a[:4].roll(1, dims=1)  # of one token each: 4 of 400 examples
    drop = tokens.drop(answered(changed, "tokens", owners, [np.arange(400)]))
    assert drop.value == 0.01 and drop.bound > drop.unseen + 0.01 and drop.unseen == share_high(0, 400, 0.95)


@pytest.mark.parametrize("shape", [(3,), (50, 1), (1,)])
def test_a_function_gives_one_score_or_one_for_each_example(shape):
    a, b = two()
    judge = Judge(lambda outputs, labels: torch.zeros(shape), answered(a), None, 0.95)
    with pytest.raises(ValueError, match=r"for 50 examples: one score, or one for each example \[N\]"):
        judge.drop(answered(b))


def test_parts_that_a_function_cant_score_are_left_out():
    a, b = two(40)
    labels = np.arange(40) % 2

    def score(outputs, labels):
        if len(labels.unique()) < 2:
            raise ZeroDivisionError("one class alone")
        return float((outputs[:, 0] * (2 * labels - 1)).mean())

    parts = {"even": labels == 0, "all": np.ones(40, bool), "one": np.arange(40) == 3}
    found = Judge(score, answered(a), labels, 0.95).intervals(answered(b), parts)
    assert list(found) == ["all"] and found["all"].low <= found["all"].value <= found["all"].high


@pytest.mark.parametrize(("changed", "most"), [(0, 0.001), (3, 0.005), (8, 0.012)])
def test_examples_needed_for_agreement_are_the_least_that_do(changed, most):
    a, b = two(1000)
    b[:] = a
    b[:changed] = a[:changed].roll(1, dims=1)
    judge = Judge(METRICS["agreement"], answered(a), None, 0.95)
    drop = judge.drop(answered(b))
    assert drop.value == changed / 1000 and drop.bound == share_high(changed, 1000, 0.95) > most
    needed = judge.examples_needed(drop, most)
    share = changed / 1000
    assert share_high(math.ceil(share * needed - 1e-9), needed, 0.95) <= most < drop.bound and needed > 1000
    assert judge.examples_needed(Drop(0.02, 0.03, 1000), 0.02) is None


def test_examples_needed_for_a_mean_follow_the_width():
    """The bound's distance shrinks as 1 / sqrt(n): a third of it needs nine times as many."""
    a, _ = two()
    judge = Judge(METRICS["kl"], answered(a), None, 0.95)
    assert judge.examples_needed(Drop(0.125, 0.5, 50), 0.25) == 450
    assert judge.foreseen(Drop(0.125, 0.5, 50), 450) == pytest.approx(0.25)


def test_slices_have_their_own_examples():
    a, b = two(40)
    judge = Judge(METRICS["mse"], answered(a), None, 0.95)
    first = np.arange(40) < 10
    found = judge.intervals(answered(b), {"first": first, "none": np.zeros(40, bool)})
    each = (a - b).double().square().mean(1)
    assert list(found) == ["first"] and found["first"].n == 10
    assert found["first"].value == pytest.approx(float(each[:10].mean()), rel=1e-5)
    assert found["first"].low < found["first"].value < found["first"].high
