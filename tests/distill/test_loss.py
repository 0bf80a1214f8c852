"""The usual three terms under one roof."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdnative.distill import DistillationLoss, HiddenStateLoss, Outputs
from tests.distill.formulas import logits, soft_rows, softmax64
from tests.distill.tiny import batch


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize(("soft", "hard"), [(1.0, 1.0), (0.3, 0.0), (2.5, 0.7)])
def test_formula(temperature, soft, hard):
    s, t, y = logits()
    ce = -np.log(softmax64(s.numpy()))[np.arange(5), y.numpy()].mean()
    kl = soft_rows(s.numpy(), softmax64(t.numpy() / temperature), temperature).mean()
    states = [torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(2)]
    hidden = HiddenStateLoss({0: 0}, 4, 4, weight=0.25)
    loss = DistillationLoss(temperature, soft, hard, hidden=hidden)
    value = loss(batch(y), Outputs(s, (states[0],)), [Outputs(t, (states[1],))])
    expected = hard * ce + soft * kl + 0.25 * ((states[0] - states[1]).numpy() ** 2).mean()
    assert float(value) == pytest.approx(expected, rel=1e-12)
    assert list(loss.parts) == [*(["hard"] if hard else []), "soft", "hidden"]


def test_settings_reach_the_terms():
    loss = DistillationLoss(3.0, 0.7, 0.4, [1, 2], label_smoothing=0.1)
    assert loss.settings() == {
        "terms": ["HardLabelLoss hard", "SoftLabelLoss soft"],
        "hard.weight": 0.4,
        "hard.class_weights": [1.0, 2.0],
        "hard.label_smoothing": 0.1,
        "hard.ignore_index": -100,
        "soft.weight": 0.7,
        "soft.temperature": 3.0,
        "soft.teacher_weights": None,
        "soft.ignore_index": -100,
    }


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match="all loss terms have weight 0"):
        DistillationLoss(soft_weight=0.0, hard_weight=0.0)
    assert len(DistillationLoss(2.0, 0.0, 0.0, hidden=HiddenStateLoss({1: 1}, 4, 4)).terms) == 1
