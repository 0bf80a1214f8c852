"""Soft labels of one and of several teachers against float64 formulas written out by hand, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdnative.distill import Outputs, SoftLabelLoss, TopK
from kdnative.distill.terms.soft import divergence
from tests.distill.formulas import logits, soft_rows, softmax64
from tests.distill.tiny import batch


def soft(s, *teachers, labels=None, temperature=2.0, **options):
    return SoftLabelLoss(temperature, **options)(batch(labels), Outputs(s), [Outputs(t) for t in teachers])


def one(s, t, temperature=2.0):
    """The term's rows for one teacher."""
    return soft_rows(s.numpy(), softmax64(t.numpy() / temperature), temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_formula(temperature):
    s, t, _ = logits()
    expected = one(s, t, temperature).mean()
    assert float(soft(s, t, temperature=temperature)) == pytest.approx(expected, rel=1e-12)
    assert float(soft(s.float(), t.float(), temperature=temperature)) == pytest.approx(expected, rel=1e-5)


def test_two_classes_by_hand():
    # s = (0, 0), t = (ln 3, 0): p = (3/4, 1/4), q = (1/2, 1/2), T = 1
    s, t = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(soft(s, t, temperature=1.0)) == pytest.approx(expected, rel=1e-6)


def test_two_teachers_by_hand():
    # p_1 = (3/4, 1/4), p_2 = (1/2, 1/2), weights 1 and 3: p = (9/16, 7/16); q = (1/2, 1/2), T = 1
    s, first, second = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 9 / 16 * math.log(9 / 8) + 7 / 16 * math.log(7 / 8)
    value = soft(s, first, second, temperature=1.0, teacher_weights=(1, 3))
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("given", "weights"), [(None, (1, 1)), ((0.2, 0.8), (0.2, 0.8)), ((3, 1), (3, 1))])
def test_several_teachers_average_their_probabilities(given, weights):
    s, t, _ = logits()
    _, u, _ = logits(seed=7)
    p = [softmax64(x.numpy() / 3) for x in (t, u)]
    mean = (weights[0] * p[0] + weights[1] * p[1]) / sum(weights)
    value = soft(s, t, u, temperature=3.0, teacher_weights=given)
    assert float(value) == pytest.approx(soft_rows(s.numpy(), mean, 3.0).mean(), rel=1e-12)


def test_a_teacher_of_weight_0_is_not_read():
    s, t, _ = logits()
    term = SoftLabelLoss(teacher_weights=(1, 0))
    assert [term.asks(i) for i in range(3)] == [True, False, False]
    assert float(term(batch(), Outputs(s), [Outputs(t), Outputs()])) == pytest.approx(one(s, t).mean(), rel=1e-12)


def test_equal_logits_give_zero_and_shift_does_not_matter():
    s, _, _ = logits()
    assert abs(float(soft(s, s + 100.0))) < 1e-12


def test_gradient_is_the_difference_of_probabilities():
    s, t, _ = logits()
    _, u, _ = logits(seed=7)
    s.requires_grad_()
    t.requires_grad_()
    soft(s, t, u, temperature=3.0).backward()
    p = (softmax64(t.detach().numpy() / 3) + softmax64(u.numpy() / 3)) / 2
    expected = 3.0 * (softmax64(s.detach().numpy() / 3) - p) / 5  # T^2 * 1/T * (q - p) / rows
    np.testing.assert_allclose(s.grad.numpy(), expected, atol=1e-12)
    assert t.grad is None, "no gradient into the teacher"


def test_rows_of_padding_do_not_count_where_rows_are_tokens():
    s, t, y = logits(12, 4)
    y[[2, 7, 11]] = -100
    kept = [i for i in range(12) if i not in (2, 7, 11)]
    t[2] = 50.0  # garbage at padding changes nothing
    shaped = soft(s.view(3, 4, 4), t.view(3, 4, 4), labels=y.view(3, 4))
    assert float(shaped) == pytest.approx(one(s[kept], t[kept]).mean(), rel=1e-12)
    assert float(soft(s, t, labels=y)) == pytest.approx(one(s, t).mean(), rel=1e-12), "examples without a label do"


def test_mask():
    s, t, _ = logits()
    value = divergence(s, [(1.0, t)], 2.0, torch.tensor([1, 0, 0, 1, 0]))
    assert float(value) == pytest.approx(one(s, t)[[0, 3]].mean(), rel=1e-12)
    s.requires_grad_()
    nothing = divergence(s, [(1.0, t)], 2.0, torch.zeros(5))
    nothing.backward()
    assert float(nothing.detach()) == 0.0 and torch.equal(s.grad, torch.zeros_like(s))
    assert float(soft(torch.zeros(0, 4), torch.zeros(0, 4))) == 0.0


def test_extreme_logits_stay_finite():
    s = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    t = torch.tensor([[-1e4, 1e4, -torch.inf]])
    value = soft(s, t, temperature=1.0)
    value.backward()
    assert float(value.detach()) == pytest.approx(2e4)
    assert torch.isfinite(s.grad).all()


def test_bf16_logits_are_computed_in_fp32():
    s, t, _ = logits()
    s, t = s.bfloat16(), t.bfloat16()
    value = soft(s, t)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(one(s.double(), t.double()).mean(), rel=1e-5)


class TestTopK:
    def test_all_classes_equal_the_full_loss(self):
        s, t, _ = logits()
        for temperature in (None, 2.0):
            assert float(soft(s, TopK.of(t, 4, temperature))) == pytest.approx(float(soft(s, t)))

    def test_renormalised(self):
        s, t, _ = logits(6, 9)
        order = np.argsort(-t.numpy(), -1)[:, :3]
        p = softmax64(np.take_along_axis(t.numpy(), order, -1) / 2)
        log_q = np.log(np.take_along_axis(softmax64(s.numpy() / 2), order, -1))
        expected = 4 * (p * (np.log(p) - log_q)).sum(-1).mean()
        assert float(soft(s, TopK.of(t, 3))) == pytest.approx(expected, rel=1e-12)

    def test_remaining_mass_is_one_more_class(self):
        s, t, _ = logits(6, 9)
        order = np.argsort(-t.numpy(), -1)[:, :3]
        p, q = (np.take_along_axis(softmax64(x.numpy() / 2), order, -1) for x in (t, s))
        p, q = (np.concatenate((v, 1 - v.sum(-1, keepdims=True)), -1) for v in (p, q))
        expected = 4 * (p * np.log(p / q)).sum(-1).mean()
        assert float(soft(s, TopK.of(t, 3, 2.0))) == pytest.approx(expected, rel=1e-9)

    def test_several_teachers_weigh_their_divergences(self):
        s, t, _ = logits(6, 9)
        _, u, _ = logits(6, 9, seed=7)
        both = soft(s, TopK.of(t, 3), u, teacher_weights=(1, 3))
        expected = (float(soft(s, TopK.of(t, 3))) + 3 * one(s, u).mean()) / 4
        assert float(both) == pytest.approx(expected, rel=1e-12)

    def test_with_all_classes_their_gradient_is_that_of_the_average(self):
        s, t, _ = logits()
        _, u, _ = logits(seed=7)
        gradients = []
        for first in (t, TopK.of(t, 4)):
            x = s.clone().requires_grad_()
            soft(x, first, u).backward()
            gradients.append(x.grad)
        torch.testing.assert_close(*gradients)

    @pytest.mark.parametrize("temperature", [None, 2.0])
    def test_gradients(self, temperature):
        s, t, _ = logits(3, 6)
        s.requires_grad_()
        top = TopK.of(t, 2, temperature)
        assert torch.autograd.gradcheck(lambda x: soft(x, top), (s,))

    def test_other_temperature_is_refused(self):
        s, t, _ = logits()
        with pytest.raises(ValueError, match="temperature 2.0, but the loss has 3.0"):
            soft(s, TopK.of(t, 2, 2.0), temperature=3.0)

    @pytest.mark.parametrize("k", [0, 5])
    def test_bad_k(self, k):
        with pytest.raises(ValueError, match=f"top_k={k}"):
            TopK.of(torch.zeros(1, 4), k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"weight": float("nan")}, "weight=nan"),
        ({"teacher_weights": (1, -1)}, "none may be negative"),
        ({"teacher_weights": (0, 0)}, "one must be above 0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        SoftLabelLoss(**options)


@pytest.mark.parametrize(
    ("teachers", "options", "message"),
    [
        ((), {}, r"'soft' learns from a teacher: pass teachers"),
        ((torch.zeros(5, 3),), {}, r"\[5, 3\]"),
        ((torch.zeros(5, 4),), {"teacher_weights": (1, 1)}, "2 entries for 1 teachers"),
    ],
)
def test_bad_teachers(teachers, options, message):
    with pytest.raises(ValueError, match=message):
        soft(torch.zeros(5, 4), *teachers, **options)
