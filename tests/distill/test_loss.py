"""Distillation losses against float64 formulas written out by hand, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdnative.distill import DistillationLoss, TopK


def softmax64(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def soft_term(s, t, temperature):
    """Rows of T^2 * KL, the formula in float64."""
    p, q = softmax64(t / temperature), softmax64(s / temperature)
    return temperature**2 * (p * (np.log(p) - np.log(q))).sum(-1)


def pair(rows=5, classes=4, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(rows, classes, dtype=torch.float64, generator=generator) * scale for _ in range(2))
    return s, t, torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize(("soft", "hard"), [(1.0, 1.0), (0.3, 0.0), (2.5, 0.7)])
def test_formula(temperature, soft, hard):
    s, t, y = pair()
    loss = DistillationLoss(temperature, soft, hard)
    ce = -np.log(softmax64(s.numpy()))[np.arange(5), y.numpy()].mean()
    expected = hard * ce + soft * soft_term(s.numpy(), t.numpy(), temperature).mean()
    assert float(loss(s, t, y)) == pytest.approx(expected, rel=1e-12)
    assert float(loss(s.float(), t.float(), y)) == pytest.approx(expected, rel=1e-5)


def test_two_classes_by_hand():
    # s = (0, 0), t = (ln 3, 0): p = (3/4, 1/4), q = (1/2, 1/2), T = 1
    s, t = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    value = DistillationLoss(1.0, soft_weight=2.0)(s, t, torch.tensor([0]))
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(value) == pytest.approx(math.log(2.0) + 2.0 * kl, rel=1e-6)


def test_parts_are_unweighted_and_detached():
    s, t, y = pair()
    s.requires_grad_()
    loss = DistillationLoss(2.0, 3.0, 5.0)
    total = loss(s, t, y)
    assert float(total.detach()) == pytest.approx(float(5 * loss.parts["hard"] + 3 * loss.parts["soft"]), rel=1e-12)
    assert not any(v.requires_grad for v in loss.parts.values())


def test_equal_logits_give_zero_and_shift_does_not_matter():
    s, _, _ = pair()
    assert abs(float(DistillationLoss(hard_weight=0)(s, s + 100.0))) < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradients(temperature):
    s, t, y = pair(3, 4)
    s.requires_grad_()
    weights = [1.0, 2.0, 0.5, 1.5]
    loss = DistillationLoss(temperature, 0.7, 0.4, class_weights=weights, label_smoothing=0.1)
    assert torch.autograd.gradcheck(lambda x: loss(x, t, y), (s,))


def test_soft_gradient_is_the_difference_of_probabilities():
    s, t, _ = pair()
    s.requires_grad_()
    DistillationLoss(3.0, hard_weight=0)(s, t).backward()
    expected = 3.0 * (softmax64(s.detach().numpy() / 3) - softmax64(t.numpy() / 3)) / 5  # T^2 * 1/T * (q - p) / rows
    np.testing.assert_allclose(s.grad.numpy(), expected, atol=1e-12)


def test_no_gradient_into_the_teacher():
    s, t, _ = pair()
    s.requires_grad_()
    t.requires_grad_()
    DistillationLoss(hard_weight=0)(s, t).backward()
    assert t.grad is None


def test_unlabelled_rows_count_in_the_soft_term_only():
    s, t, y = pair()
    y[[1, 3]] = -100
    kept = [0, 2, 4]
    ce = -np.log(softmax64(s.numpy()))[kept, y[kept].numpy()].mean()
    expected = ce + soft_term(s.numpy(), t.numpy(), 2.0).mean()
    assert float(DistillationLoss()(s, t, y)) == pytest.approx(expected, rel=1e-12)
    assert float(DistillationLoss()(s, t)) == pytest.approx(soft_term(s.numpy(), t.numpy(), 2.0).mean(), rel=1e-12)


def test_class_weights_and_smoothing():
    s, _, y = pair()
    w = np.array([1.0, 2.0, 0.5, 4.0])
    log_q = np.log(softmax64(s.numpy()))
    weighted = -(w[y] * log_q[np.arange(5), y]).sum() / w[y].sum()
    assert float(DistillationLoss(soft_weight=0, class_weights=w)(s, None, y)) == pytest.approx(weighted, rel=1e-6)
    target = np.full((5, 4), 0.2 / 4)
    target[np.arange(5), y] += 0.8
    smooth = -(target * log_q).sum(-1).mean()
    assert float(DistillationLoss(soft_weight=0, label_smoothing=0.2)(s, None, y)) == pytest.approx(smooth, rel=1e-12)


def test_per_token_logits_skip_padding_in_both_terms():
    s, t, y = pair(12, 4)
    y[[2, 7, 11]] = -100
    kept = [i for i in range(12) if i not in (2, 7, 11)]
    flat = DistillationLoss()(s[kept], t[kept], y[kept])
    t[2] = 50.0  # garbage at padding changes nothing
    shaped = DistillationLoss()(s.view(3, 4, 4), t.view(3, 4, 4), y.view(3, 4))
    assert float(shaped) == pytest.approx(float(flat), rel=1e-12)


def test_explicit_mask():
    s, t, _ = pair()
    mask = torch.tensor([1, 0, 0, 1, 0])
    expected = soft_term(s.numpy(), t.numpy(), 2.0)[[0, 3]].mean()
    assert float(DistillationLoss()(s, t, mask=mask)) == pytest.approx(expected, rel=1e-12)


def test_no_row_left_gives_zero_with_a_gradient():
    s, t, y = pair()
    s.requires_grad_()
    value = DistillationLoss()(s, t, torch.full_like(y, -100), mask=torch.zeros(5))
    value.backward()
    assert float(value.detach()) == 0.0
    assert torch.equal(s.grad, torch.zeros_like(s))
    empty = DistillationLoss()(
        torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    )
    assert float(empty.detach()) == 0.0


def test_extreme_logits_stay_finite():
    s = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    t = torch.tensor([[-1e4, 1e4, -torch.inf]])
    value = DistillationLoss(1.0, hard_weight=0)(s, t)
    value.backward()
    assert float(value.detach()) == pytest.approx(2e4)
    assert torch.isfinite(s.grad).all()


def test_bf16_logits_are_computed_in_fp32():
    s, t, y = pair()
    s, t = s.bfloat16(), t.bfloat16()
    value = DistillationLoss()(s, t, y)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(DistillationLoss()(s.double(), t.double(), y)), rel=1e-6)


class TestTopK:
    def test_all_classes_equal_the_full_loss(self):
        s, t, _ = pair()
        full = DistillationLoss(hard_weight=0)(s, t)
        for temperature in (None, 2.0):
            assert float(DistillationLoss(hard_weight=0)(s, TopK.of(t, 4, temperature))) == pytest.approx(float(full))

    def test_renormalised(self):
        s, t, _ = pair(6, 9)
        order = np.argsort(-t.numpy(), -1)[:, :3]
        p = softmax64(np.take_along_axis(t.numpy(), order, -1) / 2)
        log_q = np.log(np.take_along_axis(softmax64(s.numpy() / 2), order, -1))
        expected = 4 * (p * (np.log(p) - log_q)).sum(-1).mean()
        assert float(DistillationLoss(hard_weight=0)(s, TopK.of(t, 3))) == pytest.approx(expected, rel=1e-12)

    def test_remaining_mass_is_one_more_class(self):
        s, t, _ = pair(6, 9)
        order = np.argsort(-t.numpy(), -1)[:, :3]
        p, q = (np.take_along_axis(softmax64(x.numpy() / 2), order, -1) for x in (t, s))
        p, q = (np.concatenate((v, 1 - v.sum(-1, keepdims=True)), -1) for v in (p, q))
        expected = 4 * (p * np.log(p / q)).sum(-1).mean()
        assert float(DistillationLoss(hard_weight=0)(s, TopK.of(t, 3, 2.0))) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("temperature", [None, 2.0])
    def test_gradients(self, temperature):
        s, t, _ = pair(3, 6)
        s.requires_grad_()
        top = TopK.of(t, 2, temperature)
        assert torch.autograd.gradcheck(lambda x: DistillationLoss(hard_weight=0)(x, top), (s,))

    def test_other_temperature_is_refused(self):
        s, t, _ = pair()
        with pytest.raises(ValueError, match="temperature 2.0, but the loss has 3.0"):
            DistillationLoss(3.0)(s, TopK.of(t, 2, 2.0))

    @pytest.mark.parametrize("k", [0, 5])
    def test_bad_k(self, k):
        with pytest.raises(ValueError, match=f"top_k={k}"):
            TopK.of(torch.zeros(1, 4), k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"soft_weight": -1.0}, "soft_weight=-1.0"),
        ({"soft_weight": 0.0, "hard_weight": 0.0}, "nothing to learn"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"hidden_weight": 1.0}, "HiddenStateLoss"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        DistillationLoss(**options)


@pytest.mark.parametrize(
    ("teacher", "labels", "message"),
    [
        (None, None, "needs teacher_logits"),
        (torch.zeros(5, 3), None, r"\[5, 3\]"),
        (torch.zeros(5, 4), torch.zeros(4, dtype=torch.long), r"labels has shape \[4\]"),
    ],
)
def test_bad_arguments(teacher, labels, message):
    with pytest.raises(ValueError, match=message):
        DistillationLoss()(torch.zeros(5, 4), teacher, labels)


def test_wrong_number_of_class_weights_and_nothing_left():
    with pytest.raises(ValueError, match="3 entries for 4 classes"):
        DistillationLoss(soft_weight=0, class_weights=[1, 1, 1])(torch.zeros(2, 4), None, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no labels were given"):
        DistillationLoss(soft_weight=0)(torch.zeros(2, 4))
