"""Hard labels against cross entropy written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdnative.distill import HardLabelLoss, Outputs
from tests.distill.formulas import logits, softmax64
from tests.distill.tiny import batch


def hard(s, y, **options):
    return HardLabelLoss(**options)(batch(y), Outputs(s))


def test_by_hand():
    # s = (ln 3, 0): softmax = (3/4, 1/4)
    s = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    assert float(hard(s, torch.tensor([1, 0]))) == pytest.approx((math.log(4) + math.log(2)) / 2, rel=1e-6)


def test_cross_entropy():
    s, _, y = logits()
    expected = -np.log(softmax64(s.numpy()))[np.arange(5), y.numpy()].mean()
    assert float(hard(s, y)) == pytest.approx(expected, rel=1e-12)
    assert float(hard(s.float(), y)) == pytest.approx(expected, rel=1e-5)


def test_class_weights_and_smoothing():
    s, _, y = logits()
    w = np.array([1.0, 2.0, 0.5, 4.0])
    log_q = np.log(softmax64(s.numpy()))
    weighted = -(w[y] * log_q[np.arange(5), y]).sum() / w[y].sum()
    assert float(hard(s, y, class_weights=w)) == pytest.approx(weighted, rel=1e-6)
    target = np.full((5, 4), 0.2 / 4)
    target[np.arange(5), y] += 0.8
    smooth = -(target * log_q).sum(-1).mean()
    assert float(hard(s, y, label_smoothing=0.2)) == pytest.approx(smooth, rel=1e-12)


def test_rows_without_a_label_do_not_count():
    s, _, y = logits()
    y[[1, 3]] = -100
    kept = [0, 2, 4]
    expected = -np.log(softmax64(s.numpy()))[kept, y[kept].numpy()].mean()
    assert float(hard(s, y)) == pytest.approx(expected, rel=1e-12)
    s.requires_grad_()
    nothing = hard(s, torch.full_like(y, -100))
    nothing.backward()
    assert float(nothing.detach()) == 0.0 and torch.equal(s.grad, torch.zeros_like(s))
    assert hard(s, None) is None
    assert float(hard(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))) == 0.0


def test_one_row_a_token():
    s, _, y = logits(12, 4)
    y[[2, 7, 11]] = -100
    assert float(hard(s.view(3, 4, 4), y.view(3, 4))) == pytest.approx(float(hard(s, y)), rel=1e-12)


def test_gradients():
    s, _, y = logits(3, 4)
    s.requires_grad_()
    options = {"class_weights": [1.0, 2.0, 0.5, 1.5], "label_smoothing": 0.1}
    assert torch.autograd.gradcheck(lambda x: hard(x, y, **options), (s,))


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"labels has shape \[4\]"):
        hard(torch.zeros(5, 4), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="3 entries for 4 classes"):
        hard(torch.zeros(2, 4), torch.tensor([0, 1]), class_weights=[1, 1, 1])
    for label in (3, -1):
        with pytest.raises(ValueError, match=f"class_weights has 3 entries, but a label is {label}"):
            HardLabelLoss(class_weights=[1, 1, 1]).count(batch(torch.tensor([0, label])))
    with pytest.raises(ValueError, match=r"shape \[4\]; \[rows, classes\]"):
        hard(torch.zeros(4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="label_smoothing=1.0"):
        HardLabelLoss(label_smoothing=1.0)
    with pytest.raises(ValueError, match="weight=-1.0 of the loss term 'hard'"):
        HardLabelLoss(weight=-1.0)
