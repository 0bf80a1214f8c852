"""Soft and hard labels without logits: the same losses, and logits wherever somebody needs them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdnative.bench.live_bytes import LiveBytes
from kdnative.bench.logits_child import CausalLM, TokenBatches, loss_of_heads
from kdnative.data import Batches
from kdnative.distill import (
    DistillationLoss,
    HardLabelLoss,
    HiddenStateLoss,
    LossTerm,
    LossTerms,
    Outputs,
    SoftLabelLoss,
    SoftLabels,
    Teacher,
    TrainConfig,
    train,
)
from kdnative.distill.terms.without_logits import is_plain_head, label_terms
from tests.distill.tiny import batch, model, tokens

CONFIG = TrainConfig(2, 1e-2, device="cpu", precision="fp32")
LARGE = 5  # classes, here


def said(seed, rows=(6,), width=4, classes=LARGE):
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, classes).double()
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    hidden = torch.randn(*rows, width, dtype=torch.float64, generator=generator)
    return Outputs(hidden=hidden.requires_grad_(), head=head)


@pytest.fixture
def no_logits(monkeypatch):
    """Nobody reads logits."""

    def fail(self):
        raise AssertionError("logits were made")

    monkeypatch.setattr(Outputs, "logits", property(fail))


def both(terms, given, rows=(6,), teachers=(1,), shares=None):
    """Loss, parts and gradients with logits and without."""
    found = []
    for large in (None, LARGE):
        student, theirs = said(0, rows), [said(seed, rows, width=7) for seed in teachers]
        loss = LossTerms(terms, large)
        value = loss(given, student, theirs, shares)
        value.backward()
        gradients = [student.hidden.grad, *(p.grad for p in student.head.parameters())]
        found.append((value.detach(), loss.parts, gradients))
        assert student.is_lazy == (large is not None)
    return found


TERMS = {
    "soft": [SoftLabelLoss(3.0)],
    "both": [HardLabelLoss(weight=0.5), SoftLabelLoss(2.0, weight=0.7, name="kd")],
    "other order": [SoftLabelLoss(2.0), HardLabelLoss(ignore_index=0)],
}


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("rows", [(6,), (2, 3)], ids=str)
def test_the_same_as_the_terms_alone(terms, rows):
    labels = torch.tensor([0, 4, -100, 2, 1, 3]).view(rows)
    labels = labels.where(labels >= 0, terms[-1].ignore_index) if len(terms) > 1 else labels
    shares = {term.name: 0.25 * (i + 1) for i, term in enumerate(terms)}
    (a, parts, first), (b, tiled, second) = both(terms, batch(labels), rows, teachers=(1, 2), shares=shares)
    assert list(parts) == list(tiled) == [term.name for term in terms]
    torch.testing.assert_close([a, *parts.values(), *first], [b, *tiled.values(), *second], rtol=1e-12, atol=1e-14)


def test_without_labels_hard_ones_say_nothing():
    (a, parts, _), (b, tiled, _) = both(TERMS["both"], batch())
    assert list(parts) == list(tiled) == ["kd"] and float(a) == pytest.approx(float(b), rel=1e-12)


def test_labels_of_another_shape():
    with pytest.raises(ValueError, match=r"labels has shape \[3\]; the logits call for \[6\]"):
        LossTerms(TERMS["both"], LARGE)(batch(torch.zeros(3, dtype=torch.long)), said(0), [said(1)])


class Reader(LossTerm):
    default_name = "reader"

    def forward(self, batch, student, teachers):
        return student.logits.square().mean()


class Own(SoftLabelLoss):
    """May compute anything."""


@pytest.mark.parametrize(
    ("terms", "possible"),
    [
        ([SoftLabelLoss()], True),
        ([SoftLabelLoss(), HardLabelLoss(), HiddenStateLoss({1: 1}, 8, 8)], True),
        ([HardLabelLoss()], False),
        ([SoftLabelLoss(), SoftLabelLoss(name="again")], False),
        ([SoftLabelLoss(), HardLabelLoss(class_weights=[1, 2])], False),
        ([SoftLabelLoss(), HardLabelLoss(label_smoothing=0.1)], False),
        ([SoftLabelLoss(), Reader()], False),
        ([Own()], False),
    ],
)
def test_which_terms(terms, possible):
    assert (label_terms(terms) is not None) == possible


def test_which_heads():
    assert is_plain_head(nn.Linear(2, 5), 5)
    assert not is_plain_head(None, 5) and not is_plain_head(nn.Linear(2, 4), 5) and not is_plain_head(Odd(2, 5), 5)
    hooked, replaced = nn.Linear(2, 5), nn.Linear(2, 5)
    hooked.register_forward_hook(lambda *_: None)
    replaced.forward = lambda x: x
    assert not is_plain_head(hooked, 5) and not is_plain_head(replaced, 5)
    assert not is_plain_head(torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 5)), 5)


class Odd(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_without_logits(precision, monkeypatch):
    """A classifier of 40 classes, and a teacher of another width; hidden states beside."""
    data, config = tokens(40), TrainConfig(2, 1e-2, device="cpu", precision=precision, accumulation=2)
    found = []
    for large in (None, 40):
        student, teacher = model(2, classes=40), model(1, width=12, classes=40)
        loss = DistillationLoss(3.0, hidden=HiddenStateLoss({1: 1}, 8, 12, metric="mse"), large=large)
        torch.manual_seed(0)
        for projection in loss.terms[2].projections:
            nn.init.ones_(projection.weight)
        if large:
            monkeypatch.setattr(Outputs, "logits", property(lambda self: pytest.fail("logits were made")))
        history = train(student, Batches(data, 8, shuffle=True), loss, config, teachers=[teacher])
        found.append((student, history))
    (plain, first), (tiled, second) = found
    # Rounding of bf16 logits is the same, that of their gradient's products is not.
    close = {"fp32": 1e-5, "bf16": 1e-2}[precision]
    for a, b in zip(first.epochs, second.epochs, strict=True):
        assert a == pytest.approx(b, rel=close)
    for a, b in zip(plain.parameters(), tiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=close, atol=close)


def test_a_language_model(no_logits):
    """Hard labels are the next tokens; the last token of a text counts for nothing."""
    torch.manual_seed(0)
    teacher, student = CausalLM(50, 8), CausalLM(50, 8)
    loss = DistillationLoss(large=50)
    history = train(student, TokenBatches(3, 300, 50), loss, CONFIG, teachers=[teacher])
    assert (
        history.epochs[1]["hard"] < history.epochs[0]["hard"] and history.epochs[1]["soft"] < history.epochs[0]["soft"]
    )


def with_logits(monkeypatch, student, loss, teachers, data=None):
    """Whether a training reads the student's logits."""
    made, own = [], Outputs.logits.fget
    monkeypatch.setattr(Outputs, "logits", property(lambda self: made.append(self) or own(self)))
    train(student, Batches(tokens(16) if data is None else data, 8), loss, CONFIG, teachers=teachers)
    return bool(made)


def test_where_logits_are_made(monkeypatch):
    student, teacher = model(0, classes=5), model(1, classes=5)
    assert not with_logits(monkeypatch, student, DistillationLoss(large=5), [teacher])
    assert with_logits(monkeypatch, student, DistillationLoss(large=6), [teacher]), "few classes"
    assert with_logits(monkeypatch, student, DistillationLoss(large=None), [teacher]), "nobody wants it"
    assert with_logits(monkeypatch, student, [Own()], [teacher]), "a term of another class"
    data = tokens(16)
    cached = SoftLabels.compute(teacher, data, device="cpu")
    assert with_logits(monkeypatch, student, DistillationLoss(large=5), [Teacher(teacher, cached)], data), "cached"
    teacher.classifier.register_forward_hook(lambda *_: None)
    assert with_logits(monkeypatch, student, DistillationLoss(large=5), [teacher]), "a head with a hook"


def test_a_linear_that_is_large_but_no_head(monkeypatch):
    """The models are looked at, and run as they are."""
    student, teacher = model(0, width=9), model(1, width=9)
    assert with_logits(monkeypatch, student, DistillationLoss(large=9), [teacher])


def test_peak_memory_is_a_fifth():
    """The sizes of a language model of today, counted on the meta device: a thirtieth."""
    for dtype in (torch.float32, torch.bfloat16):
        above = []
        for large in (None, 16_384):
            loss, student, teacher = loss_of_heads(large, 4096, 2048, 128_256, dtype, "meta")
            with LiveBytes() as counter:
                loss(SimpleNamespace(labels=None), student, [teacher]).backward()
            above.append(counter.peak - student.head.weight.grad.nbytes - student.hidden.grad.nbytes)
        assert above[1] < above[0] / 25
        assert above[0] > 5 * 4096 * 128_256 * 4, "the plain terms hold several times the logits"


def test_bad_settings():
    with pytest.raises(ValueError, match="large=0: a number of classes"):
        DistillationLoss(large=0)
