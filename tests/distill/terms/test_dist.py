"""DIST against correlations that numpy computes, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdnative.distill import DISTLoss, Outputs
from tests.distill.formulas import logits, softmax64
from tests.distill.tiny import batch


def dist(s, t, **options):
    return DISTLoss(**options)(batch(), Outputs(s), [Outputs(t)])


def formula(s, t, temperature, inter, intra):
    q, p = (softmax64(x.numpy() / temperature) for x in (s, t))
    rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    return temperature**2 * (inter * rows + intra * columns)


@pytest.mark.parametrize(("temperature", "inter", "intra"), [(1.0, 1.0, 1.0), (4.0, 2.0, 0.5), (2, 0, 1), (2, 1, 0)])
def test_formula(temperature, inter, intra):
    s, t, _ = logits(rows=7, classes=5)
    options = {"temperature": temperature, "inter": inter, "intra": intra}
    expected = formula(s, t, **options)
    assert float(dist(s, t, **options)) == pytest.approx(expected, rel=1e-6)
    assert float(dist(s.float(), t.float(), **options)) == pytest.approx(expected, rel=1e-4)


def test_two_classes_by_hand():
    # Two classes always correlate by +1 or -1: rows agree in the first example alone, columns rise and fall oppositely.
    s = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()
    t = torch.tensor([[0.7, 0.3], [0.2, 0.8]]).log()
    assert float(dist(s, t, intra=0.0)) == pytest.approx((0 + 2) / 2, abs=1e-5)
    assert float(dist(s, t, inter=0.0)) == pytest.approx(0, abs=1e-5)
    assert float(dist(s, t.flip(0), inter=0.0)) == pytest.approx(2, abs=1e-5)


def test_what_is_only_sharper_costs_less_than_with_soft_labels():
    t = torch.tensor([[0.5, 0.3, 0.2]]).double().log()
    spread = torch.tensor([[0.6, 0.3, 0.0 + 1e-9]]).double()
    along = (t.softmax(1) - 1 / 3) * 1.5 + 1 / 3  # correlated with the teacher's to the full
    assert float(dist(along.log(), t)) == pytest.approx(0, abs=1e-7)
    assert float(dist(spread.log(), t)) > 1e-3


def test_one_example_has_no_order_among_examples():
    s, t, _ = logits(rows=1)
    assert float(dist(s, t)) == float(dist(s, t, intra=0.0))


def test_a_student_that_knows_nothing_gets_a_finite_gradient():
    s = torch.zeros(3, 4, requires_grad=True)
    _, t, _ = logits(rows=3)
    value = dist(s, t.float())
    value.backward()
    assert float(value.detach()) == pytest.approx(2.0) and bool(s.grad.isfinite().all())


def test_gradient():
    s, t, _ = logits()
    s.requires_grad_()
    t.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dist(x, t), s)
    dist(s, t).backward()
    assert t.grad is None


def test_empty_batch():
    assert float(dist(torch.zeros(0, 3), torch.zeros(0, 3))) == 0.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DISTLoss(float("inf")), "temperature=inf"),
        (lambda: DISTLoss(inter=-1.0), "neither may be negative"),
        (lambda: DISTLoss(inter=0.0, intra=0.0), "one must be above 0"),
        (lambda: dist(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)), r"needs logits \[examples, classes\] of both"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
