"""Losses of targets, against sums worked out in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.targets import SoftTargetLoss, TargetLoss
from kdnative.distill.topk import TopK


def batch(labels) -> SimpleNamespace:
    return SimpleNamespace(labels=None if labels is None else torch.tensor(labels, dtype=torch.float32))


def outputs(values) -> Outputs:
    return Outputs(torch.tensor(values, dtype=torch.float32)[:, None].requires_grad_())


@pytest.mark.parametrize("n", [1, 2, 33])
def test_squared_error_of_the_rows_with_a_target(n):
    generator = np.random.default_rng(n)
    found, true = generator.normal(size=n).astype(np.float32), generator.normal(size=n).astype(np.float32)
    true[n // 2 + 1 :: 2] = np.nan
    known = ~np.isnan(true)
    expected = ((found[known].astype(np.float64) - true[known]) ** 2).mean()
    assert TargetLoss()(batch(true), outputs(found)).item() == pytest.approx(expected, rel=1e-6)


def test_rows_without_a_target_get_no_gradient():
    student = outputs([1.0, 2.0, 3.0])
    (gradient,) = torch.autograd.grad(TargetLoss()(batch([0.0, float("nan"), 3.0]), student), student.logits)
    assert gradient[:, 0].tolist() == [1.0, 0.0, 0.0]


def test_no_target_at_all():
    student = outputs([1.0, 2.0])
    (gradient,) = torch.autograd.grad(TargetLoss()(batch([float("nan")] * 2), student), student.logits)
    assert gradient.tolist() == [[0.0], [0.0]]
    assert TargetLoss()(batch(None), student) is None


def test_the_teachers_prediction_is_the_soft_label():
    student, teachers = outputs([1.0, 2.0]), [outputs([3.0, 2.5]), outputs([1.0, 1.0])]
    loss = SoftTargetLoss()
    assert loss(batch(None), student, teachers[:1]).item() == pytest.approx((4 + 0.25) / 2)
    assert loss(batch(None), student, teachers).item() == pytest.approx(((4 + 0.25) / 2 + 0.5) / 2)
    gradient = torch.autograd.grad(loss(batch(None), student, teachers[:1]), [student.logits, teachers[0].logits],
                                   allow_unused=True)  # fmt: skip
    assert gradient[0][:, 0].tolist() == [-2.0, -0.5] and gradient[1] is None


def test_shapes_that_do_not_fit():
    two = Outputs(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"the student's predictions are \[3, 2\]; one number a row"):
        TargetLoss()(batch([0.0] * 3), two)
    with pytest.raises(ValueError, match=r"targets have shape \[2\]; the predictions call for \[3\]"):
        TargetLoss()(batch([0.0] * 2), outputs([0.0] * 3))
    with pytest.raises(ValueError, match=r"the teacher's predictions have shape \[2\], not \[3\]"):
        SoftTargetLoss()(batch(None), outputs([0.0] * 3), [outputs([0.0] * 2)])
    with pytest.raises(ValueError, match="the teacher's predictions are TopK"):
        SoftTargetLoss()(batch(None), outputs([0.0]), [Outputs(TopK.of(torch.zeros(1, 2), 1))])
