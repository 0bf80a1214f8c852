"""What each layer loses, of students that are trained for integer weights already."""

from __future__ import annotations

import copy

import pytest
import torch

from kdnative.evaluate import predict, sensitivity
from kdnative.quantize import finish_qat_, prepare_qat_, quantize_weight
from tests.distill.tiny import model, tokens


def recovered(clip):
    """A student whose hidden layer runs in 4 bits, with outliers that make a search clip."""
    student = model(0, width=64).eval()
    with torch.no_grad():
        student.hidden.weight[:, ::32] *= 4
    prepare_qat_(student, {"hidden": "w4a8-g32"}, clip=clip)
    return student


@pytest.mark.parametrize("clip", [None, "search", "learn"])
def test_a_layer_loses_nothing_in_its_own_scheme(clip):
    student = recovered(clip)
    if clip is not None:
        again = quantize_weight(student.hidden.quantized().dequantize(), "w4a8-g32").dequantize()
        assert not torch.equal(again, student.hidden.quantized().dequantize())  # rounded twice, it would lose
    before = copy.deepcopy(student.state_dict())
    found = sensitivity(student, tokens(40), ["w4a8-g32", "w8a8"], device="cpu")
    rows = {(r.layer, r.change): r for r in found}
    assert (rows["hidden", "w4a8-g32"].divergence, rows["hidden", "w4a8-g32"].score_change) == (0.0, 0.0)
    assert rows["hidden", "w8a8"].divergence > 0
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert list(rows) == [(n, s) for s in ("w4a8-g32", "w8a8") for n in ("hidden", "classifier", "(all)")]


def test_other_schemes_round_the_float_weights_and_are_compared_with_the_integer_student():
    student = recovered("search")
    changed = copy.deepcopy(student)
    floats = student.hidden.weight.detach().clone()
    rows = sensitivity(student, tokens(40), ["w2a8-g32"], device="cpu")
    finish_qat_(changed)
    p = predict(changed, tokens(40), device="cpu")
    with torch.no_grad():
        changed.hidden.weight.copy_(quantize_weight(floats, "w2a8-g32").dequantize())
    q = predict(changed, tokens(40), device="cpu")
    a, b = p.logits.double().softmax(-1), q.logits.double().softmax(-1)
    (row,) = [r for r in rows if r.layer == "hidden"]
    assert row.divergence == pytest.approx(float((a * (a / b).log()).sum(-1).mean()), rel=1e-9) and row.divergence
    hits = [float((x.classes == x.labels).double().mean()) for x in (p, q)]
    assert row.score_change == hits[1] - hits[0]
