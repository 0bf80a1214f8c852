"""The training loop: against a loop written out by hand, and its promises one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnative.data import Batch, Batches
from kdnative.distill import (
    DistillationLoss,
    HardLabelLoss,
    HiddenStateLoss,
    LossTerm,
    SoftLabelLoss,
    SoftLabels,
    Teacher,
    TrainConfig,
    train,
)
from kdnative.distill.loop import parameter_groups
from kdnative.evaluate import agreement, predict
from tests.distill.tiny import VOCABULARY, Tiny, model, tokens


def quick(epochs=1, **options) -> TrainConfig:
    return TrainConfig(epochs, **{"lr": 1e-2, "device": "cpu", "precision": "fp32", **options})


class OnStep:
    """A function as a callback."""

    def __init__(self, function):
        self.on_step = function


def test_same_as_a_plain_loop():
    data = Batches(tokens(30), 8, shuffle=True, seed=4)
    ours, theirs = model(0, dropout=0.0), model(0, dropout=0.0)
    history = train(ours, data, HardLabelLoss(), quick(2))

    decay = [theirs.embedding.weight, theirs.hidden.weight, theirs.classifier.weight]
    plain = [p for p in theirs.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decay}, {"params": plain, "weight_decay": 0.0}], lr=1e-2)
    losses, step = [], 0
    theirs.train()
    for epoch in range(2):
        for batch in data.epoch(epoch):
            factor = 1.0 if step < 1 else 1 - (step - 1) / 7  # 8 steps, the first one warms up
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * factor
            optimizer.zero_grad()
            loss = F.cross_entropy(theirs(**batch.inputs).logits, batch.labels)
            loss.backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            step += 1
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert history.steps == step == 8
    assert [e["loss"] for e in history.epochs] == pytest.approx([np.mean(losses[:4]), np.mean(losses[4:])], rel=1e-5)


def test_learns_and_reports():
    student, steps = model(0, width=16), []
    history = train(
        student,
        Batches(tokens(300), 16, shuffle=True),
        HardLabelLoss(),
        quick(6, lr=3e-2),
        validation=Batches(tokens(200, seed=1), 64),
        callbacks=[OnStep(lambda p: steps.append((p.step, p.steps, p.epoch)))],
    )
    assert history.epochs[-1]["val_accuracy"] > 0.85 > 0.6
    assert history.epochs[-1]["val_loss"] < history.epochs[0]["val_loss"]
    assert steps == [(i + 1, 114, i // 19) for i in range(114)]
    assert not student.training


def test_student_approaches_the_teacher_without_labels():
    data = tokens(200, labelled=False)
    teacher = model(3, dropout=0.0)
    with torch.no_grad():
        teacher.classifier.weight.mul_(10)
    student, soft = model(4, dropout=0.0), SoftLabels.compute(teacher, data, device="cpu")
    target = predict(teacher, data, device="cpu")
    before = agreement(predict(student, data, device="cpu"), target)
    train(student, Batches(data, 16, shuffle=True), DistillationLoss(), quick(15, lr=3e-2), teachers=[soft])
    assert agreement(predict(student, data, device="cpu"), target).value > 0.9 > 0.6 > before.value


def test_cached_and_live_teacher_give_the_same_student():
    data, teacher = tokens(24), model(3)
    teacher.train()
    students = []
    for source in (SoftLabels.compute(teacher, data, device="cpu"), teacher):
        students.append(model(4))
        train(students[-1], Batches(data, 8, shuffle=True), DistillationLoss(), quick(), teachers=[source])
    for a, b in zip(*(s.parameters() for s in students), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # padding differs, and so do the teacher's last bits
    assert teacher.training, "the teacher's own mode comes back"
    assert all(p.grad is None for p in teacher.parameters())


def test_projections_are_trained_and_hidden_states_approach():
    data, teacher = tokens(40), model(3, width=12, dropout=0.0)
    loss = HiddenStateLoss({1: 1}, 8, 12)
    before = loss.projections[0].weight.detach().clone()
    student = model(4, dropout=0.0)
    history = train(student, Batches(data, 8, shuffle=True), loss, quick(5), teachers=[teacher])
    assert not torch.equal(loss.projections[0].weight, before)
    assert history.epochs[-1]["hidden"] < 0.7 * history.epochs[0]["hidden"]


class Given:
    """A validation whose figures are given."""

    def __init__(self, **values):
        self.values, self.calls, self.weights = values, 0, []

    def evaluate(self, model):
        assert not model.training and not torch.is_grad_enabled()
        self.weights.append(model.hidden.weight.detach().clone())
        self.calls += 1
        return {name: values[self.calls - 1] for name, values in self.values.items()}


@pytest.mark.parametrize(
    ("direction", "figures", "best"),
    [
        ("max", [0.5, 0.7, 0.7, 0.6], 1),
        ("min", [0.5, 0.2, 0.7, 0.2], 1),
        ("max", [math.nan, 0.1, math.nan, 0.0], 1),
        ("min", [math.nan] * 4, None),
    ],
)
def test_best_epoch_is_restored(direction, figures, best):
    student, validation = model(0), Given(pearson=figures, other=[1.0] * 4)
    config = quick(4, select_by=("pearson", direction))
    history = train(student, Batches(tokens(20), 8), HardLabelLoss(), config, validation=validation)
    assert history.best == best and validation.calls == 4
    assert torch.equal(student.hidden.weight, validation.weights[3 if best is None else best])
    assert [entry["val_pearson"] for entry in history.epochs] == pytest.approx(figures, nan_ok=True)


def test_best_accuracy_of_a_classifier():
    student, validation = model(0), Batches(tokens(100, seed=1), 64)

    def ruin(progress):  # from the third epoch on: the best epoch is an earlier one
        if progress.epoch >= 2:
            nn.init.zeros_(progress.model.classifier.weight)

    history = train(
        student,
        Batches(tokens(40), 8, shuffle=True),
        HardLabelLoss(),
        quick(5, lr=5e-2, schedule="constant", select_by=("accuracy", "max")),
        validation=validation,
        callbacks=[OnStep(ruin)],
    )
    seen = [entry["val_accuracy"] for entry in history.epochs]
    assert history.best == int(np.argmax(seen)) < 2
    found = predict(student, validation, device="cpu")
    assert float((found.classes == found.labels).double().mean()) == seen[history.best]
    reference = F.cross_entropy(found.logits.double(), found.labels)
    assert history.epochs[history.best]["val_loss"] == pytest.approx(float(reference), rel=1e-12)


def test_a_function_validates():
    history = train(model(0), Batches(tokens(9), 4), HardLabelLoss(), quick(), validation=lambda model: {"size": 3.0})
    assert history.epochs[0]["val_size"] == 3.0


def test_max_steps_stops_within_an_epoch():
    history = train(model(0), Batches(tokens(40), 8), HardLabelLoss(), quick(3, max_steps=7))
    assert history.steps == 7
    assert [e["step"] for e in history.epochs] == [5, 7]


def test_no_epochs_change_nothing():
    student = model(0)
    history = train(student, Batches(tokens(9), 4), HardLabelLoss(), quick(0))
    assert history.epochs == [] and history.steps == 0
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), model(0).parameters(), strict=True))


def test_bf16_autocast_trains():
    student, plain = model(0), model(0)
    seen = []
    student.classifier.register_forward_hook(lambda m, args, output: seen.append(output.dtype))
    train(student, Batches(tokens(20), 8), HardLabelLoss(), quick(precision="bf16"))
    train(plain, Batches(tokens(20), 8), HardLabelLoss(), quick())
    assert set(seen) == {torch.bfloat16} and student.hidden.weight.dtype == torch.float32
    torch.testing.assert_close(student.hidden.weight, plain.hidden.weight, rtol=0, atol=1e-2)
    assert not torch.equal(student.hidden.weight, plain.hidden.weight)


@pytest.mark.parametrize("size", [2, 4])
def test_accumulation_equals_the_large_batch(size):
    """30 examples: the last batch of an epoch is smaller, and so is the last step."""
    teacher, students = model(3), []
    for batch, accumulation in ((8, 1), (8 // size, size)):
        data = tokens(30)
        student = model(0, dropout=0.0)
        config = quick(3, accumulation=accumulation, clip_norm=None)
        batches = Batches(data, batch, by_length=False)
        history = train(student, batches, DistillationLoss(), config, teachers=[teacher])
        assert history.steps == 12
        students.append((student, history))
    (large, first), (small, second) = students
    for a, b in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(first.epochs, second.epochs, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_two_teachers_and_their_weights():
    """Cached and live ones together: as one teacher whose probabilities are their average."""
    data = tokens(24)
    first, second = model(3), model(5, width=12)
    batches = Batches(data, 8, shuffle=True)
    both = model(4, dropout=0.0)
    soft = SoftLabels.compute(second, data, device="cpu")
    train(both, batches, SoftLabelLoss(3.0, teacher_weights=(1, 3)), quick(2), teachers=[first, soft])

    p = [(predict(t, data, device="cpu").logits.double() / 3).softmax(-1) for t in (first, second)]
    average = (3 * (p[0] / 4 + p[1] * 3 / 4).log()).float()
    one = model(4, dropout=0.0)
    train(one, batches, SoftLabelLoss(3.0), quick(2), teachers=[replace(soft, target=average)])
    for a, b in zip(both.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_model_runs_only_for_what_is_not_cached():
    data, teacher = tokens(16), model(3)
    soft, calls = SoftLabels.compute(teacher, data, device="cpu"), []
    teacher.register_forward_hook(lambda *arguments: calls.append(1))
    both = Teacher(teacher, soft)
    train(model(0), Batches(data, 8), DistillationLoss(), quick(), teachers=[both])
    assert calls == []
    train(model(0), Batches(data, 8), DistillationLoss(hidden=HiddenStateLoss({1: 1}, 8, 8)), quick(), teachers=[both])
    assert len(calls) == 3, "two batches, and one example to find the head that nobody needs"


def test_schedules():
    linear = [TrainConfig(1, 1.0, warmup=0.2).factor(i, 10) for i in range(10)]
    assert linear == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert TrainConfig(1, 1.0, warmup=0.2, schedule="cosine").factor(6, 10) == pytest.approx(
        0.5 * (1 + math.cos(math.pi / 2))
    )
    assert TrainConfig(1, 1.0, warmup=0.2, schedule="constant").factor(9, 10) == 1.0
    assert TrainConfig(1, 1.0).factor(0, 1) == 1.0


def test_biases_and_norms_do_not_decay_and_shared_parameters_count_once():
    student = model(0)
    student.tied = student.hidden
    student.classifier.weight.requires_grad_(False)
    decay, plain = parameter_groups([student, student], 0.1)
    assert [p.shape for p in decay["params"]] == [(VOCABULARY, 8), (8, 8)] and decay["weight_decay"] == 0.1
    assert len(plain["params"]) == 4 and plain["weight_decay"] == 0.0


def test_nan_stops_at_once():
    student = model(0)
    with torch.no_grad():
        student.classifier.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="step 1: the loss is nan"):
        train(student, Batches(tokens(8), 8), HardLabelLoss(), quick())


def labels_of_other_data():
    return SoftLabels.compute(model(0), tokens(8, seed=7), device="cpu")


SELECT = quick(select_by=("accuracy", "max"))


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ({"teachers": []}, quick(), "'soft' learns from a teacher: pass teachers="),
        ({"teachers": [labels_of_other_data()]}, quick(), "other examples"),
        ({}, SELECT, "select_by=.* needs validation="),
        ({"validation": Batches(tokens(8, labelled=False), 8)}, quick(), "no labels"),
        ({"validation": Batches(tokens(8), 8)}, quick(select_by=("f1", "max")), "the validation gives loss, accuracy"),
        ({"validation": lambda model: {"f1": 1.0}}, SELECT, "the validation gives f1"),
        ({"save_every": 0}, quick(), "save_every=0"),
    ],
)
def test_bad_arguments(options, config, message):
    with pytest.raises(ValueError, match=message):
        train(model(0), Batches(tokens(8), 8), DistillationLoss(), config, **{"teachers": [Tiny()], **options})


def test_hidden_states_of_a_teacher_of_which_only_logits_are_cached():
    data = tokens(8)
    soft, loss = SoftLabels.compute(model(1), data, device="cpu"), HiddenStateLoss({1: 1}, 8, 8)
    with pytest.raises(ValueError, match=r"needs hidden_states of teachers\[0\], and only logits are cached"):
        train(model(0), Batches(data, 8), [HardLabelLoss(), loss], quick(), teachers=[soft])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teachers": [3]}, "int is not a teacher"),
        ({"validation": 3}, "validation is int"),
        ({"callbacks": [print]}, r"callbacks\[0\] is builtin_function_or_method without any of on_start"),
    ],
)
def test_arguments_of_another_kind(options, message):
    with pytest.raises(TypeError, match=message):
        train(model(0), Batches(tokens(8), 8), HardLabelLoss(), quick(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs=-1"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"schedule": "step"}, "schedule='step'"),
        ({"precision": "fp16"}, "precision='fp16'"),
        ({"accumulation": 0}, "accumulation=0"),
        ({"select_by": "accuracy"}, "select_by='accuracy'"),
        ({"select_by": ("accuracy", "best")}, "select_by="),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"epochs": 1, "lr": 1e-2, **options})


def test_no_batches():
    with pytest.raises(ValueError, match="no batches"):
        train(model(0), Batches(tokens(0), 8), HardLabelLoss(), quick())


def test_soft_labels_follow_the_examples_when_shuffled():
    """The loss sees the row of the very example, whatever its place in the batch."""
    data, seen = tokens(20), []

    class Spy(SoftLabelLoss):
        def forward(self, batch, student, teachers):
            seen.append((teachers[0].logits[:, 0].clone(), batch.labels.clone()))
            return super().forward(batch, student, teachers)

    soft = SoftLabels.compute(model(1), data, device="cpu")
    numbered = torch.arange(20.0)[:, None] * torch.tensor([[1.0, 0.0]])
    batches = Batches(data, 6, shuffle=True, seed=2)
    train(model(0), batches, Spy(), quick(), teachers=[replace(soft, target=numbered)])
    for (row, labels), batch in zip(seen, batches.epoch(0), strict=True):
        assert row.long().tolist() == batch.index.tolist()
        assert labels.tolist() == data.labels[row.long().numpy()].tolist()


class Pictures(nn.Module):
    """A model of another kind: no token ids, one value for each example."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 1))

    def forward(self, pixels):
        return self.layers(pixels)


class Squares(LossTerm):
    """Squared error of values."""

    default_name = "squares"

    def forward(self, batch, student, teachers):
        return (student.logits[:, 0] - batch.labels).square().mean()


class Drawn:
    """Batches of pictures and values."""

    fingerprint = "drawn"

    def __len__(self):
        return 3

    def epoch(self, number, start=0):
        for i in range(start, 3):
            generator = torch.Generator().manual_seed(i)
            pixels = torch.randn(4, 1, 5, 5, generator=generator)
            yield Batch({"pixels": pixels}, pixels.mean((1, 2, 3)), torch.arange(4 * i, 4 * i + 4))


def test_another_task():
    history = train(Pictures(), Drawn(), [Squares(weight=2.0)], quick(12))
    assert history.epochs[-1]["squares"] < history.epochs[0]["squares"] / 2
    assert history.epochs[0]["loss"] == pytest.approx(2 * history.epochs[0]["squares"], rel=1e-6)
