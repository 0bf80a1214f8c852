"""A classifier that is chosen by how near it is to its teacher."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from kdnative.data import Batches
from kdnative.distill import Fidelity, HardLabelLoss, TrainConfig, train
from kdnative.evaluate import predict
from tests.distill.tiny import model, tokens


def test_against_float64_in_any_order_of_batches():
    data, teacher, student = tokens(50), model(0).eval(), model(1).eval()
    p, q = (predict(m, data).logits.double().softmax(-1) for m in (teacher, student))
    expected = float((p * (p / q).log()).sum(-1).mean())
    same = float((p.argmax(-1) == q.argmax(-1)).double().mean())
    for batches in (Batches(data, 7), Batches(data, 50)):
        for given in (teacher, predict(teacher, data).logits):
            found = Fidelity(batches, given).evaluate(student)
            assert math.isclose(found["kl"], expected, rel_tol=1e-5) and found["agreement"] == same
    assert Fidelity(Batches(data, 7), teacher).evaluate(copy.deepcopy(teacher)) == {"kl": 0.0, "agreement": 1.0}


def test_training_ends_and_keeps_what_was_nearest():
    """Labels pull the student away from its teacher, which it equals at first: the first epoch is the nearest."""
    data, teacher = tokens(60), model(0).eval()
    student = copy.deepcopy(teacher)
    held_out = Batches(tokens(40, seed=5), 8)
    config = TrainConfig(
        6, 3e-2, device="cpu", precision="fp32", select_by=("kl", "min"), early_stopping=1, schedule="constant"
    )
    validation = Fidelity(held_out, teacher)
    history = train(student, Batches(data, 8, shuffle=True, seed=0), HardLabelLoss(), config, validation=validation)
    divergences = [epoch["val_kl"] for epoch in history.epochs]
    assert len(divergences) < 6 and history.best == divergences.index(min(divergences))
    assert math.isclose(validation.evaluate(student)["kl"], min(divergences), rel_tol=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match=r"\[3, 2\] for 60 examples"):
        Fidelity(Batches(tokens(), 8), torch.zeros(3, 2))
    config = TrainConfig(1, 1e-2, device="cpu", precision="fp32", select_by=("accuracy", "max"))
    with pytest.raises(ValueError, match="kl, agreement"):
        train(
            model(), Batches(tokens(), 8), HardLabelLoss(), config, validation=Fidelity(Batches(tokens(), 8), model())
        )
