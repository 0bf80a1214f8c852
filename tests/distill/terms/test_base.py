"""Terms as a sum: weights, names, what is asked for, and what is left out."""

from __future__ import annotations

import pytest
import torch

from kdnative.distill import HardLabelLoss, HiddenStateLoss, LossTerm, LossTerms, Outputs, SoftLabelLoss
from tests.distill.formulas import logits
from tests.distill.tiny import batch


class Constant(LossTerm):
    default_name = "constant"
    needs = frozenset()

    def __init__(self, value, **options):
        super().__init__(**options)
        self.value = value

    def forward(self, batch, student, teachers):
        return None if self.value is None else torch.tensor(self.value)


def test_weighted_sum_and_its_parts():
    loss = LossTerms(
        [Constant(2.0, weight=3.0), Constant(0.5, weight=4.0, name="other"), Constant(None, name="silent")]
    )
    assert float(loss(batch(), Outputs())) == 8.0
    assert {name: float(value) for name, value in loss.parts.items()} == {"constant": 2.0, "other": 0.5}


def test_parts_have_no_gradient():
    s, t, y = logits()
    s.requires_grad_()
    loss = LossTerms([HardLabelLoss(weight=5.0), SoftLabelLoss(weight=3.0)])
    total = loss(batch(y), Outputs(s), [Outputs(t)])
    assert total.requires_grad and not any(value.requires_grad for value in loss.parts.values())
    assert float(total.detach()) == pytest.approx(float(5 * loss.parts["hard"] + 3 * loss.parts["soft"]), rel=1e-12)


def test_what_is_asked_for():
    loss = LossTerms([HardLabelLoss(), SoftLabelLoss(weight=0.0), HiddenStateLoss({1: 1}, 4, 4, teacher=1)])
    assert [term.name for term in loss.terms] == ["hard", "hidden"]
    assert loss.needs == {"logits", "hidden_states"}
    assert [loss.teacher_needs(i) for i in range(2)] == [set(), {"hidden_states"}]


def test_settings_name_every_term():
    loss = LossTerms([HardLabelLoss(class_weights=[1, 2]), Constant(1.0, weight=2.0)])
    assert loss.settings() == {
        "terms": ["HardLabelLoss hard", "Constant constant"],
        "hard.weight": 1.0,
        "hard.class_weights": [1.0, 2.0],
        "hard.label_smoothing": 0.0,
        "hard.ignore_index": -100,
        "constant.weight": 2.0,
    }


def test_what_is_no_loss():
    with pytest.raises(ValueError, match="two loss terms are named 'hard'"):
        LossTerms([HardLabelLoss(), HardLabelLoss()])
    for terms in ([], [HardLabelLoss(weight=0.0)]):
        with pytest.raises(ValueError, match="all loss terms have weight 0"):
            LossTerms(terms)
    with pytest.raises(TypeError, match="function is not a loss term"):
        LossTerms([lambda batch, student, teachers: 0.0])
    with pytest.raises(ValueError, match=r"\(hard\) applies to this batch"):
        LossTerms([HardLabelLoss()])(batch(), Outputs(torch.zeros(2, 3)))


def test_needs_that_do_not_exist():
    class Wrong(Constant):
        needs = frozenset({"logit"})

    with pytest.raises(ValueError, match=r"needs \['logit'\]: allowed are logits, hidden_states, head"):
        Wrong(1.0)
