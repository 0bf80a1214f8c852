"""Decoupled distillation against float64 formulas written out with probabilities, and by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdnative.distill import SOFT_LOSSES, DKDLoss, Outputs, TopK
from tests.distill.formulas import logits, softmax64
from tests.distill.tiny import batch


def dkd(s, t, labels=None, **options):
    return DKDLoss(**options)(batch(labels), Outputs(s), [Outputs(t)])


def formula(s, t, y, temperature, alpha, beta):
    """The paper's equations 3 and 7, with probabilities."""
    rows = []
    for row_s, row_t, label in zip(s.numpy(), t.numpy(), y.tolist(), strict=True):
        q, p = softmax64(row_s / temperature), softmax64(row_t / temperature)
        target = sum(a * np.log(a / b) for a, b in ((p[label], q[label]), (1 - p[label], 1 - q[label])))
        others = [c for c in range(len(q)) if c != label]
        p_hat, q_hat = p[others] / (1 - p[label]), q[others] / (1 - q[label])
        rows.append(alpha * target + beta * (p_hat * np.log(p_hat / q_hat)).sum())
    return temperature**2 * np.mean(rows)


@pytest.mark.parametrize(
    ("temperature", "alpha", "beta"), [(1.0, 1.0, 2.0), (4.0, 1.0, 8.0), (0.7, 0.0, 1.0), (3, 2, 0)]
)
def test_formula(temperature, alpha, beta):
    s, t, y = logits(rows=6, classes=5)
    options = {"temperature": temperature, "alpha": alpha, "beta": beta}
    expected = formula(s, t, y, **options)
    assert float(dkd(s, t, y, **options)) == pytest.approx(expected, rel=1e-10)
    assert float(dkd(s.float(), t.float(), y, **options)) == pytest.approx(expected, rel=1e-4)


def test_by_hand():
    # q = (1/3, 1/3, 1/3), p = (1/2, 1/3, 1/6), target 0: b_t = (1/2, 1/2), b_s = (1/3, 2/3); o_t = (2/3, 1/3)
    s, t = torch.zeros(1, 3), torch.tensor([[1 / 2, 1 / 3, 1 / 6]]).log()
    target = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    others = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    value = dkd(s, t, torch.tensor([0]), temperature=1.0, alpha=1.0, beta=8.0)
    assert float(value) == pytest.approx(target + 8 * others, rel=1e-5)


def test_weights_of_soft_labels_give_soft_labels():
    # Equation 5: KL = KL(b_t || b_s) + (1 - p_target) * KL(o_t || o_s), one row at a time.
    s, t, y = logits()
    for i in range(len(s)):
        row = slice(i, i + 1)
        left = 1 - float((t[row] / 2).softmax(1)[0, y[i]])
        soft = SOFT_LOSSES["kd"](2.0)(batch(y[row]), Outputs(s[row]), [Outputs(t[row])])
        assert float(dkd(s[row], t[row], y[row], temperature=2.0, beta=left)) == pytest.approx(float(soft), rel=1e-9)


def test_unlabelled_examples_have_the_class_of_the_teacher():
    s, t, y = logits(rows=6)
    some = torch.where(torch.arange(6) < 2, y, -100)
    stands_in = torch.where(torch.arange(6) < 2, y, t.argmax(1))
    assert not torch.equal(stands_in, y)
    assert float(dkd(s, t, some)) == float(dkd(s, t, stands_in))
    assert float(dkd(s, t)) == float(dkd(s, t, t.argmax(1)))


def test_mixed_pictures_have_the_class_of_the_teacher():
    s, t, y = logits(rows=6)
    mixed = SimpleNamespace(labels=y, others=y.roll(1), share=0.6, index=torch.arange(6), inputs={})
    assert float(DKDLoss()(mixed, Outputs(s), [Outputs(t)])) == float(dkd(s, t, t.argmax(1)))


def test_gradient():
    s, t, y = logits()
    s.requires_grad_()
    t.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dkd(x, t, y), s)
    dkd(s, t, y).backward()
    assert t.grad is None and s.grad.abs().min() > 0


def test_far_logits_are_finite():
    s = torch.tensor([[300.0, -300.0, 0.0]], requires_grad=True)
    value = dkd(s, torch.tensor([[-300.0, 300.0, 0.0]]), torch.tensor([0]), temperature=1.0)
    value.backward()
    assert math.isfinite(float(value.detach())) and bool(s.grad.isfinite().all())


def test_empty_batch():
    assert float(dkd(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))) == 0.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DKDLoss(0.0), "temperature=0.0: must be above 0"),
        (lambda: DKDLoss(alpha=-1.0), "neither may be negative"),
        (lambda: DKDLoss(alpha=0.0, beta=0.0), "one must be above 0"),
        (lambda: DKDLoss(teacher=-1), "positions count from 0"),
        (lambda: dkd(torch.zeros(2, 1), torch.zeros(2, 1)), "there is only one"),
        (lambda: dkd(torch.zeros(2, 3), torch.zeros(2, 4)), r"got \[2, 3\] of the student and \[2, 4\] of the teacher"),
        (lambda: dkd(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3)), r"labels have shape \[3\]"),
        (lambda: dkd(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 3])), "'dkd': a label is 3; .* 0 to 2 are"),
        (lambda: dkd(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([-1, 0])), "a label is -1; .* -100 for an ex"),
        (lambda: dkd(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2)), "a label is of torch.float32; whole"),
        (lambda: dkd(torch.zeros(2, 9), TopK.of(torch.zeros(2, 9), 4)), "only the top 4 of the teacher are cached"),
        (lambda: DKDLoss(teacher=1)(batch(), Outputs(torch.zeros(2, 3)), [Outputs()]), r"teachers\[1\], of 1"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
