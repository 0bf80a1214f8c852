"""The training loop: against a loop written out by hand, and its promises one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnative.data import Batches, TokenizedDataset
from kdnative.distill import DistillationLoss, HiddenStateLoss, SoftLabels, train
from kdnative.distill.loop import learning_rate, parameter_groups
from kdnative.evaluate import agreement, predict
from tests.distill.tiny import VOCABULARY, Tiny, model, tokens

QUICK = {"lr": 1e-2, "device": "cpu", "amp": False}


def test_same_as_a_plain_loop():
    data = Batches(tokens(30), 8, shuffle=True, seed=4)
    ours, theirs = model(0, dropout=0.0), model(0, dropout=0.0)
    history = train(ours, data, DistillationLoss(soft_weight=0), epochs=2, **QUICK)

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
    student, logged, steps = model(0, width=16), [], []
    history = train(
        student,
        Batches(tokens(300), 16, shuffle=True),
        DistillationLoss(soft_weight=0),
        epochs=6,
        validation=Batches(tokens(200, seed=1), 64),
        log=logged.append,
        on_step=lambda p: steps.append((p.step, p.steps, p.epoch)),
        **{**QUICK, "lr": 3e-2},
    )
    assert history.epochs == logged
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
    options = {"epochs": 15, "soft_labels": soft, **QUICK, "lr": 3e-2}
    train(student, Batches(data, 16, shuffle=True), DistillationLoss(), **options)
    assert agreement(predict(student, data, device="cpu"), target).value > 0.9 > 0.6 > before.value


def test_cached_and_live_teacher_give_the_same_student():
    data, teacher = tokens(24), model(3)
    teacher.train()
    students = []
    for source in ({"soft_labels": SoftLabels.compute(teacher, data, device="cpu")}, {"teacher": teacher}):
        students.append(model(4))
        train(students[-1], Batches(data, 8, shuffle=True), DistillationLoss(), epochs=1, **source, **QUICK)
    for a, b in zip(*(s.parameters() for s in students), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # padding differs, and so do the teacher's last bits
    assert teacher.training, "the teacher's own mode comes back"
    assert all(p.grad is None for p in teacher.parameters())


def test_projections_are_trained_and_hidden_states_approach():
    data, teacher = tokens(40), model(3, width=12, dropout=0.0)
    loss = DistillationLoss(0.5, 0.0, 0.0, 1.0, hidden=HiddenStateLoss({1: 1}, 8, 12))
    before = loss.hidden.projections[0].weight.detach().clone()
    history = train(model(4, dropout=0.0), Batches(data, 8, shuffle=True), loss, epochs=5, teacher=teacher, **QUICK)
    assert not torch.equal(loss.hidden.projections[0].weight, before)
    assert history.epochs[-1]["hidden"] < 0.7 * history.epochs[0]["hidden"]


class Shifted(Tiny):
    """A teacher with token numbers of its own: those of the student plus 3, padding 2."""

    def forward(self, input_ids, attention_mask, **options):
        assert int(input_ids.min()) >= 2 and int(input_ids[attention_mask == 0].sum()) % 2 == 0
        return super().forward((input_ids - 3).clamp(min=0), attention_mask, **options)


def test_teacher_with_a_tokenizer_of_its_own():
    data = tokens(24)
    own = TokenizedDataset(data.ids + 3, data.offsets, data.labels, 2, data.source)
    loss = DistillationLoss(hidden_weight=1.0, hidden=HiddenStateLoss({1: 1}, 8, 8))
    plain, shifted = model(3), Shifted()
    shifted.load_state_dict(plain.state_dict())
    students = []
    for options in ({"teacher": plain}, {"teacher": shifted, "teacher_data": own}):
        students.append(model(4))
        train(students[-1], Batches(data, 8, shuffle=True, multiple=4), loss, epochs=1, **options, **QUICK)
    for a, b in zip(*(s.parameters() for s in students), strict=True):
        assert torch.equal(a, b)

    longer = TokenizedDataset(np.repeat(data.ids, 2), data.offsets * 2, data.labels, 2, data.source)
    with pytest.raises(ValueError, match="hidden states cannot be compared: example 0"):
        train(model(4), Batches(data, 8), loss, epochs=1, teacher=shifted, teacher_data=longer, **QUICK)


def test_best_epoch_is_restored():
    student, seen = model(0), []
    validation = Batches(tokens(100, seed=1), 64)
    history = train(
        student,
        Batches(tokens(40), 8, shuffle=True),
        DistillationLoss(soft_weight=0),
        epochs=5,
        validation=validation,
        select_best=True,
        schedule="constant",
        # from the third epoch on the model is ruined: the best epoch is an earlier one
        on_step=lambda p: p.epoch < 2 or nn.init.zeros_(p.model.classifier.weight),
        log=lambda entry: seen.append(entry["val_accuracy"]),
        **{**QUICK, "lr": 5e-2},
    )
    assert history.best == int(np.argmax(seen)) < 2
    found = predict(student, validation, device="cpu")
    assert float((found.classes == found.labels).double().mean()) == seen[history.best]


def test_max_steps_stops_within_an_epoch():
    history = train(model(0), Batches(tokens(40), 8), DistillationLoss(soft_weight=0), epochs=3, max_steps=7, **QUICK)
    assert history.steps == 7
    assert [e["step"] for e in history.epochs] == [5, 7]


def test_no_epochs_change_nothing():
    student = model(0)
    history = train(student, Batches(tokens(9), 4), DistillationLoss(soft_weight=0), epochs=0, **QUICK)
    assert history.epochs == [] and history.steps == 0
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), model(0).parameters(), strict=True))


def test_bf16_autocast_trains():
    student = model(0)
    train(student, Batches(tokens(20), 8), DistillationLoss(soft_weight=0), epochs=1, **{**QUICK, "amp": True})
    assert student.hidden.weight.dtype == torch.float32
    assert torch.isfinite(student.hidden.weight).all()


def test_schedules():
    linear = [learning_rate(i, 10, 2) for i in range(10)]
    assert linear == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert learning_rate(6, 10, 2, "cosine") == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert learning_rate(9, 10, 2, "constant") == 1.0
    assert learning_rate(0, 1, 0) == 1.0


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
        train(student, Batches(tokens(8), 8), DistillationLoss(soft_weight=0), epochs=1, **QUICK)


def labels_of_other_data():
    return SoftLabels.compute(model(0), tokens(8, seed=7), device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "soft_weight > 0 needs soft_labels"),
        ({"epochs": -1}, "epochs=-1"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"schedule": "step"}, "schedule='step'"),
        ({"save_every": 0}, "save_every=0"),
        ({"teacher": Tiny(), "select_best": True}, "labelled validation"),
        ({"soft_labels": labels_of_other_data()}, "other examples"),
        ({"teacher": Tiny(), "teacher_data": tokens(8, seed=7)}, "other examples"),
        ({"teacher": Tiny(), "amp": "fp16"}, "amp='fp16'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        train(model(0), Batches(tokens(8), 8), DistillationLoss(), **{"epochs": 1, **QUICK, **options})


def test_no_batches():
    with pytest.raises(ValueError, match="no batches"):
        train(model(0), Batches(tokens(0), 8), DistillationLoss(soft_weight=0), epochs=1, **QUICK)


def test_soft_labels_follow_the_examples_when_shuffled():
    """The loss sees the row of the very example, whatever its place in the batch."""
    data, seen = tokens(20), []

    class Spy(DistillationLoss):
        def forward(self, student_logits, teacher_logits, labels=None, **options):
            seen.append((teacher_logits[:, 0].clone(), labels.clone()))
            return super().forward(student_logits, teacher_logits, labels, **options)

    soft = SoftLabels.compute(model(1), data, device="cpu")
    numbered = torch.arange(20.0)[:, None] * torch.tensor([[1.0, 0.0]])
    batches = Batches(data, 6, shuffle=True, seed=2)
    train(model(0), batches, Spy(), epochs=1, soft_labels=replace(soft, target=numbered), **QUICK)
    for (row, labels), batch in zip(seen, batches.epoch(0), strict=True):
        assert row.long().tolist() == batch.index.tolist()
        assert labels.tolist() == data.labels[row.long().numpy()].tolist()
