"""Whom a student learns from, and what is asked of each."""

from __future__ import annotations

import pytest
import torch

from kdnative.data import Batches
from kdnative.distill import HardLabelLoss, HiddenStateLoss, LossTerms, SoftLabelLoss, SoftLabels, Teacher
from kdnative.distill.teachers import check_teachers
from tests.distill.tiny import model, tokens

DATA = tokens(6)


def soft():
    return SoftLabels.compute(model(1), DATA, device="cpu")


def test_models_and_soft_labels_alone_are_teachers():
    one, labels = model(0), soft()
    both = Teacher(one, labels)
    assert Teacher.of(one).model is one and Teacher.of(labels).soft_labels is labels and Teacher.of(both) is both
    with pytest.raises(ValueError, match="needs model=, soft_labels=, or both"):
        Teacher()


def test_a_model_runs_for_what_is_not_cached():
    needs = {"logits", "hidden_states"}
    assert Teacher(model(0)).runs_for(needs) == needs
    assert Teacher(model(0), soft()).runs_for(needs) == {"hidden_states"}
    assert Teacher(model(0), soft()).runs_for({"logits"}) == set()


def test_cached_logits_beside_hidden_states_of_the_model():
    one, labels = model(0), soft()
    (batch,) = Batches(DATA, 6)
    one.train()
    found = Teacher(one, labels).answer(batch, {"logits", "hidden_states"}, None, torch.device("cpu"))
    assert torch.equal(found.logits, labels.target[batch.index])
    assert len(found.hidden_states) == 2 and not found.hidden_states[1].requires_grad and one.training


def test_descriptions_tell_teachers_apart():
    teachers = [Teacher(model(0)), Teacher(model(0, width=4)), Teacher(None, soft()), Teacher(model(0), soft())]
    assert len({teacher.description() for teacher in teachers}) == 4


@pytest.mark.parametrize(
    ("terms", "teachers", "message"),
    [
        ([SoftLabelLoss()], [], "'soft' learns from a teacher"),
        ([HiddenStateLoss({1: 1}, 8, 8, teacher=1)], [Teacher(model(0))], "'hidden' learns from a teacher"),
        ([HiddenStateLoss({1: 1}, 8, 8)], [Teacher(None, soft())], r"needs hidden_states of teachers\[0\]"),
        (
            [SoftLabelLoss()],
            [Teacher(model(0)), Teacher(None, soft())],
            r"teachers\[1\] were computed for other examples",
        ),
    ],
)
def test_teachers_that_do_not_fit(terms, teachers, message):
    with pytest.raises(ValueError, match=message):
        check_teachers(teachers, LossTerms(terms), tokens(6, seed=3))


def test_teachers_of_whom_nothing_is_asked_are_fine():
    check_teachers([Teacher(model(0))], LossTerms([HardLabelLoss()]), None)
