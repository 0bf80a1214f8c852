"""Logits that are made only when somebody reads them, of models of any structure."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnative.data import Batches
from kdnative.distill import (
    DistillationLoss,
    HiddenStateLoss,
    LossTerm,
    Outputs,
    SoftLabelLoss,
    SoftLabels,
    TrainConfig,
    train,
)
from kdnative.distill.outputs import head_of, run
from tests.distill.tiny import model, tokens

CONFIG = TrainConfig(2, 1e-2, device="cpu", precision="fp32")


class ChunkedKL(LossTerm):
    """`SoftLabelLoss` of one teacher, with the student's logits in memory for some rows at a time only."""

    default_name = "chunked"
    needs = frozenset({"head"})
    teacher_needs = frozenset({"logits"})

    def __init__(self, temperature, rows):
        super().__init__()
        self.temperature, self.rows = temperature, rows

    def forward(self, batch, student, teachers):
        hidden, head, targets = student.hidden, student.head, teachers[0].logits
        total = 0.0
        for i in range(0, len(hidden), self.rows):
            part = F.linear(hidden[i : i + self.rows], head.weight, head.bias).float()
            p = (targets[i : i + self.rows] / self.temperature).softmax(-1)
            total = total + F.kl_div((part / self.temperature).log_softmax(-1), p, reduction="sum")
        return total * self.temperature**2 / len(hidden)


class CountingLinear(nn.Linear):
    """Writes down of how many rows it makes logits."""

    def forward(self, x):
        self.rows.append(len(x))
        return super().forward(x)


def counting(student):
    student.classifier.__class__, student.classifier.rows = CountingLinear, []
    return student


def test_a_term_that_makes_no_logits_trains_the_same_student():
    data = tokens(40)
    soft = SoftLabels.compute(model(1, width=12, classes=5), data, device="cpu")
    students = []
    for loss in (SoftLabelLoss(3.0), ChunkedKL(3.0, rows=3)):
        student = counting(model(2, classes=5))
        history = train(student, Batches(data, 8, shuffle=True), loss, CONFIG, teachers=[soft])
        students.append((student, history))
    (plain, first), (chunked, second) = students
    for a, b in zip(plain.parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert [e["soft"] for e in first.epochs] == pytest.approx([e["chunked"] for e in second.epochs], rel=1e-5)
    assert plain.classifier.rows == [8] * 10
    assert chunked.classifier.rows == [1], "of the one example only by which the head was found"
    assert "forward" not in vars(chunked.classifier), "the head is itself again"


class Wide(LossTerm):
    """Reads hidden states and head of both sides, and logits as well."""

    default_name = "wide"
    needs = teacher_needs = frozenset({"head", "logits", "hidden_states"})

    def forward(self, batch, student, teachers):
        ours, theirs = student, teachers[0]
        assert torch.equal(ours.logits, ours.head(ours.hidden).float()) and ours.logits is ours.logits
        assert ours.logits.requires_grad and not theirs.logits.requires_grad and not theirs.hidden.requires_grad
        assert len(ours.hidden_states) == len(theirs.hidden_states) == 2
        return (ours.logits - theirs.logits).square().mean()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_beside_the_head(precision):
    config = replace(CONFIG, precision=precision)
    history = train(model(0), Batches(tokens(16), 8), Wide(), config, teachers=[model(1)])
    assert history.epochs[1]["wide"] < history.epochs[0]["wide"]


def test_hidden_states_alone_need_no_logits_of_anybody():
    student, teacher = counting(model(0)), counting(model(1))
    batches = Batches(tokens(16), 8)
    train(student, batches, HiddenStateLoss({1: 1}, 8, 8), TrainConfig(1, 1e-2, device="cpu"), teachers=[teacher])
    assert student.classifier.rows == teacher.classifier.rows == [1]


class Changed(nn.Module):
    """What its linear gives is not what it returns."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x).tanh()


def test_a_model_of_unknown_structure():
    inputs = {"x": torch.randn(2, 3)}
    assert head_of(Changed(), inputs) is None
    assert torch.isfinite(run(Changed(), inputs, {"logits"}).logits).all()
    with pytest.raises(ValueError, match="needs the head of Changed as one nn.Linear"):
        run(Changed(), inputs, {"head"})
    changed = Changed()
    with pytest.raises(ValueError, match="Changed changes the output of its head"):
        run(changed, inputs, {"head"}, changed.linear)
    assert "forward" not in vars(changed.linear)


def test_a_model_without_logits():
    class Body(nn.Module):
        def forward(self, x, output_hidden_states=False):
            return SimpleNamespace(hidden_states=(x, 2 * x))

    inputs = {"x": torch.ones(2, 1, 3)}
    assert head_of(Body(), inputs) is None
    found = run(Body(), inputs, {"hidden_states"})
    assert torch.equal(found.hidden_states[1], 2 * inputs["x"])
    with pytest.raises(TypeError, match="no logits"):
        _ = found.logits


def test_a_head_that_somebody_has_replaced_stays_so():
    student = model(0)
    inputs = {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    own = student.classifier.forward = lambda x: nn.functional.linear(x, student.classifier.weight)
    found = run(student, inputs, {"head"}, student.classifier)
    assert student.classifier.forward is own and found.hidden.shape == (2, 8)


def test_what_was_not_asked_for():
    empty = Outputs()
    for name in ("logits", "hidden_states", "hidden", "head"):
        with pytest.raises(ValueError, match="did not record"):
            getattr(empty, name)
    with pytest.raises(ValueError, match="Silent returns none"):

        class Silent(Changed):
            def forward(self, x, output_hidden_states=False):
                return super().forward(x)

        run(Silent(), {"x": torch.ones(1, 3)}, {"hidden_states"})


def test_precision_of_logits():
    for given, kept in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert Outputs(torch.zeros(2, 3, dtype=given)).logits.dtype == kept


@pytest.mark.parametrize(
    ("name", "head", "width"),
    [
        ("BertForSequenceClassification", "classifier", (2, 16)),
        ("RobertaForSequenceClassification", "classifier.out_proj", (2, 16)),
        ("DistilBertForSequenceClassification", "classifier", (2, 16)),
        ("MPNetForSequenceClassification", "classifier.out_proj", (2, 16)),
        ("ModernBertForSequenceClassification", "classifier", (2, 16)),
        ("BertForTokenClassification", "classifier", (2, 5, 16)),
        ("GPT2LMHeadModel", "lm_head", (2, 5, 16)),
    ],
)
def test_models_of_transformers(name, head, width):
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16} if name.startswith("Distil") else {}
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2} if name.startswith("GPT2") else sizes
    marks = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    torch.manual_seed(0)
    built = kind(kind.config_class(vocab_size=30, **sizes, **marks)).eval()
    inputs = {"input_ids": torch.randint(3, 30, (2, 5)), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    found = head_of(built, inputs)
    assert found is built.get_submodule(head)
    lazy, whole = run(built, inputs, {"head"}, found), run(built, inputs, {"logits"})
    assert tuple(lazy.hidden.shape) == width
    assert torch.equal(lazy.logits, whole.logits)


def test_the_usual_loss_runs_the_model_as_it_is():
    """Nothing is looked for, and nothing is replaced, where logits are needed anyway."""
    student, calls = model(0), []
    student.register_forward_hook(lambda *arguments: calls.append(vars(student.classifier).get("forward")))
    hidden = HiddenStateLoss({1: 1}, 8, 8)
    train(student, Batches(tokens(16), 8), DistillationLoss(hidden=hidden), CONFIG, teachers=[model(1)])
    assert calls == [None] * 4


class Casting(nn.Module):
    """Casts its logits, which changes them under autocast only."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, attention_mask, output_hidden_states=False):
        answer = self.inner(input_ids, attention_mask, output_hidden_states)
        answer.logits = answer.logits.float()
        return answer


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_head_is_looked_for_as_forward_passes_run(precision):
    student = Casting(model(0))
    config = TrainConfig(1, 1e-2, precision=precision, device="cpu")
    history = train(student, Batches(tokens(16), 8), HiddenStateLoss({1: 1}, 8, 8), config, teachers=[model(1)])
    assert history.steps == 2


def test_a_linear_that_is_used_twice_is_no_head():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(self.linear(x))

    assert head_of(Twice(), {"x": torch.randn(3, 4)}) is None
