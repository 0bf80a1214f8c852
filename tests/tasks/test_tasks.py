"""What each task says of data, heads, losses and figures, against values worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from kdnative.data import Batches, DataError, Dataset, DataSplits, Example, TokenizedDataset
from kdnative.evaluate import Predictions
from kdnative.tasks import TASKS, task_named

CLASSES, NUMBERS = TASKS["text-classification"], TASKS["text-regression"]
SETTINGS = SimpleNamespace(label_smoothing=0.0)


def dataset(labels, names=()) -> Dataset:
    return Dataset([Example({"text": f"t{i}", "label": y}, str(i)) for i, y in enumerate(labels)], names)


def predictions(logits, labels=None) -> Predictions:
    return Predictions(torch.tensor(logits, dtype=torch.float32), None if labels is None else torch.tensor(labels))


class Classifier(nn.Module):
    """The shape of a model of transformers: an encoder under its prefix, and a head."""

    base_model_prefix = "bert"

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.bert, self.classifier = nn.Linear(4, 4), nn.Linear(4, outputs)

    def forward(self, input_ids, attention_mask):
        return self.classifier(self.bert(nn.functional.one_hot(input_ids[:, :1] % 4, 4).float()[:, 0]))


def test_names():
    assert [task.name for task in TASKS.values()] == list(TASKS)
    assert task_named("sentence-pair-regression").fields == ("text", "text_pair") and CLASSES.fields == ("text",)
    with pytest.raises(ValueError, match="there is no task 'x'; there are text-classification, text-regression, sent"):
        task_named("x")


def test_heads():
    assert CLASSES.head(("a", "b", "c")) == {
        "num_labels": 3,
        "id2label": {0: "a", 1: "b", 2: "c"},
        "label2id": {"a": 0, "b": 1, "c": 2},
    }
    assert NUMBERS.head(()) == {"num_labels": 1, "problem_type": "regression"}


def test_a_new_head_of_numbers_begins_at_their_mean():
    train = dataset([1.0, None, 4.0])
    new, replaced, known = (Classifier(1) for _ in range(3))
    before, parameters = known.classifier.bias.clone(), {"classifier.weight", "classifier.bias"}
    NUMBERS.fit_head(new, ["LABEL_0"], train, parameters, set(), "folder")
    NUMBERS.fit_head(replaced, ["a", "b"], train, set(), parameters, "folder")
    NUMBERS.fit_head(known, ["LABEL_0"], train, set(), set(), "folder")
    assert new.classifier.bias.item() == replaced.classifier.bias.item() == 2.5
    assert torch.equal(known.classifier.bias, before)


def test_scores_and_losses():
    found = predictions([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [0, 1, 1])
    assert CLASSES.score(found) == pytest.approx(2 / 3)
    rows = [np.log(1 + np.exp(-2)), np.log(1 + np.exp(-1)), np.log(1 + np.exp(1))]
    assert CLASSES.loss(found) == pytest.approx(np.mean(rows))
    found = predictions([[1.0], [2.0], [4.0]], [1.0, 4.0, 6.0])
    assert NUMBERS.loss(found) == pytest.approx(8 / 3)
    assert NUMBERS.score(found) == pytest.approx(np.corrcoef([1, 2, 4], [1, 4, 6])[0, 1])


@pytest.mark.parametrize(
    ("task", "logits", "labels"),
    [
        (CLASSES, [[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]], [0, 1, 1, 0]),
        (NUMBERS, [[1.0], [2.0], [4.0], [3.0]], [1.0, 2.5, 6.0, 1.0]),
    ],
)
def test_quality_has_every_measure_and_is_json(task, logits, labels):
    ours, teacher = predictions(logits, labels), predictions(logits[::-1], labels)
    found = task.quality(ours, teacher, seed=0)
    for measure in task.measures:
        value = found[measure.key]
        assert isinstance(value, float) or value["low"] <= value["value"] <= value["high"]
    assert found[task.deciding.key]["value"] == pytest.approx(task.score(ours))
    assert found["agreement"]["value"] == pytest.approx(task.agreement(ours, teacher).value)
    assert task.difference(teacher, ours, 0).value == pytest.approx(task.score(ours) - task.score(teacher))
    assert task.divergence(ours.logits, ours.logits) == 0.0 < task.divergence(ours.logits, teacher.logits)


def test_kept_is_a_ratio_of_the_deciding_measure():
    labels = [0, 1, 0, 1]
    teacher = predictions([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], labels)  # 3 of 4
    student = predictions([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.5]], labels)  # 3 others of 4
    found = CLASSES.ratio(teacher, student, 0)
    assert found.value == 1.0 and found.low < 1.0 < found.high
    never = predictions([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert CLASSES.ratio(never, student, 0) is None
    numbers, good = predictions([[1.0], [2.0], [4.0]], [1.0, 3.0, 4.0]), predictions([[1.0], [3.0], [4.0]])
    ratio = NUMBERS.ratio(good, numbers, 0)
    assert ratio.value == pytest.approx(np.corrcoef([1, 2, 4], [1, 3, 4])[0, 1])
    assert NUMBERS.ratio(predictions([[3.0], [2.0], [1.0]]), numbers, 0) is None


def test_calibration_is_that_of_the_chosen_class():
    half = np.log(3.0)  # a confidence of 3 / 4
    found = CLASSES.calibration(predictions([[half, 0.0]] * 4 + [[0.0, 9.0]] * 2, [0, 0, 0, 0, 1, 1]))
    sure = 1 / (1 + np.exp(-9))
    assert found["bins"] == [
        {"confidence": pytest.approx(0.75), "accuracy": 1.0, "n": 4},
        {"confidence": pytest.approx(sure), "accuracy": 1.0, "n": 2},
    ]
    assert found["ece"] == pytest.approx((4 * 0.25 + 2 * (1 - sure)) / 6) and found["n"] == 6
    assert NUMBERS.calibration(predictions([[1.0]], [1.0])) is None


def test_disagreements_begin_with_the_surest():
    labels = [0, 1, 1, 0]
    teacher = Predictions(
        torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0], [0.0, 3.0]]), torch.tensor(labels), ("a", "b")
    )
    student = Predictions(
        torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, 5.0], [0.0, 3.0]]), torch.tensor(labels), ("a", "b")
    )
    found = CLASSES.disagreements(teacher, student, 5)
    assert found == [
        {"index": 2, "label": "b", "teacher": "a (99 %)", "student": "b (99 %)"},
        {"index": 0, "label": "a", "teacher": "a (88 %)", "student": "b (88 %)"},
    ]
    assert CLASSES.disagreements(teacher, student, 1) == found[:1] and CLASSES.disagreements(teacher, teacher, 5) == []
    theirs, ours = predictions([[1.0], [2.0], [4.0]], [1.0, 2.5, 6.0]), predictions([[1.5], [2.0], [6.25]])
    assert NUMBERS.disagreements(theirs, ours, 2) == [
        {"index": 2, "label": "6", "teacher": "4", "student": "6.25"},
        {"index": 0, "label": "1", "teacher": "1", "student": "1.5"},
    ]


@pytest.mark.parametrize(
    ("task", "labels", "names"), [(CLASSES, [0, None, 1], ("a", "b")), (NUMBERS, [0.5, None, 2.0], ())]
)
def test_examples_without_a_label_do_not_count(task, labels, names):
    torch.manual_seed(0)
    model, source = Classifier(2 if names else 1), dataset(labels, names)
    ids, offsets = np.array([1, 2, 3], np.int32), np.arange(4)
    missing = -100 if names else np.nan
    kind = np.int64 if names else np.float32
    rows = np.array([missing if y is None else y for y in labels], kind)
    data = TokenizedDataset(ids, offsets, rows, 0, source)
    batch = data.batch(np.array([0, 1, 2]))
    known = data.batch(np.array([0, 2]))
    term = task.hard_loss(1.0, SETTINGS, None)
    answers = [SimpleNamespace(logits=model(**b.inputs)) for b in (batch, known)]
    values = [term(b, answer, ()) for b, answer in zip((batch, known), answers, strict=True)]
    assert values[0].item() == pytest.approx(values[1].item()) and values[0].item() > 0
    importance = task.labels_loss(model, batch)
    importance.backward()
    assert torch.isfinite(importance) and importance > 0 and torch.isfinite(model.bert.weight.grad).all()
    assert importance.item() == pytest.approx(task.labels_loss(model, known).item()), "a mean over what is labelled"
    nothing = task.labels_loss(model, data.batch(np.array([1])))
    model.zero_grad()
    nothing.backward()
    assert nothing.item() == 0.0 and not model.bert.weight.grad.any()


def test_validation_is_what_training_asks_for():
    model, source = Classifier(1), dataset([0.5, 1.0, 2.0])
    data = TokenizedDataset(np.array([1, 2, 3], np.int32), np.arange(4), np.array([0.5, 1, 2], np.float32), 0, source)
    found = NUMBERS.validation(Batches(data, 2))
    values = found.evaluate(model.eval())
    assert set(found.names) == values.keys() == {"loss", "pearson", "spearman", "rmse"}
    with torch.no_grad():
        answers = model(**data.batch(np.arange(3)).inputs)[:, 0]
    assert values["loss"] == pytest.approx(((answers - torch.tensor([0.5, 1, 2])) ** 2).mean().item(), rel=1e-5)


def test_validation_beside_a_teacher_measures_the_distance_to_it():
    model, source = Classifier(2), dataset([0, 1, 1], ("a", "b"))
    data = TokenizedDataset(np.array([1, 2, 3], np.int32), np.arange(4), np.array([0, 1, 1]), 0, source)
    teacher = predictions([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    alone, beside = CLASSES.validation(Batches(data, 2)), CLASSES.validation(Batches(data, 2), teacher)
    values = beside.evaluate(model.eval())
    assert "kl" not in alone.names and "kl" in beside.names and "kl" not in alone.evaluate(model)
    with torch.no_grad():
        q = model(**data.batch(np.arange(3)).inputs).double().log_softmax(-1)
    p = teacher.logits.double().log_softmax(-1)
    assert values["kl"] == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-5)


def test_measures_of_a_validation_by_hand():
    """Three of four right: F1 of a is 2/3, of b 4/5. Every confidence is 0.75, in one bin with the accuracy 0.75."""
    sure = np.log(3)  # softmax([ln 3, 0]) = 0.75, 0.25
    found = CLASSES.measured(predictions([[sure, 0], [0, sure], [0, sure], [0, sure]], [0, 0, 1, 1]))
    assert found["accuracy"] == 0.75 and found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found["loss"] == pytest.approx(-(3 * np.log(0.75) + np.log(0.25)) / 4, rel=1e-6)
    assert found["ece"] == pytest.approx(0.0, abs=1e-6)
    wrong = CLASSES.measured(predictions([[sure, 0], [0, sure]], [1, 0]))
    assert wrong["accuracy"] == 0.0 and wrong["ece"] == pytest.approx(0.75, rel=1e-6)
    found = NUMBERS.measured(predictions([[1.0], [2.0], [5.0]], [2.0, 4.0, 3.0]))
    assert found == pytest.approx(
        {"loss": 3.0, "rmse": 3**0.5, "spearman": 0.5, "pearson": np.corrcoef([1, 2, 5], [2, 4, 3])[0, 1]}
    )
    for task in (CLASSES, NUMBERS):
        assert set(task.selectable) - {task.from_teacher} <= set(found if task is NUMBERS else wrong)


def test_example_inputs_of_pairs_have_two_parts():
    class Takes(nn.Module):
        def forward(self, input_ids, attention_mask, token_type_ids):
            pass

    one, two = (TASKS[f"{n}-regression"].example_inputs(Takes(), 2, 5) for n in ("text", "sentence-pair"))
    assert one["token_type_ids"].sum() == 0 and two["token_type_ids"].tolist() == [[0, 0, 1, 1, 1]] * 2
    assert "token_type_ids" not in TASKS["sentence-pair-regression"].example_inputs(Classifier(1), 1, 4)


def test_classes_that_cannot_be_learned_are_named():
    part = dataset([0, 0], ("a", "b"))
    tested = dataset([0, 1], ("a", "b"))
    (note,) = CLASSES.notes(DataSplits(part, tested, tested))
    assert "no example of 1 of the 2 classes ('b')" in note
    learned = dataset([0, 1, 1], ("a", "b"))
    assert CLASSES.notes(DataSplits(learned, part, part)) == NUMBERS.notes(DataSplits(part, tested, tested)) == []


def test_classes_of_one_example_are_named():
    names = ("a", "b", "c")
    train, other = dataset([0, 0, 1, 2], names), dataset([0, 1], names)
    (note,) = CLASSES.notes(DataSplits(train, other, dataset([0], names)))
    assert note.startswith("'c' has a single example: a class needs one example for training and one for testing")
    assert CLASSES.notes(DataSplits(dataset([0, 1, 2, 2], names), other, dataset([0], names))) == []


@pytest.mark.parametrize(
    ("names", "ordinal"),
    [("012345", True), ("1234", True), ("01", False), ("012", False), ("0135", False), ("abcd", False)],
)
def test_classes_that_may_be_scores_are_named(names, ordinal):
    part = dataset([*range(len(names)), *range(len(names))], tuple(names))
    notes = CLASSES.notes(DataSplits(part, part, part))
    assert len(notes) == ordinal
    assert not ordinal or ("task: text-regression" in notes[0] and f"numbers {names[0]} to {names[-1]}" in notes[0])


def test_many_numbers_are_names_of_classes():
    part = dataset(list(range(12)), tuple(map(str, range(12))))
    assert CLASSES.notes(DataSplits(part, part, part)) == []


def test_data_without_labels_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"t{i},\n" for i in range(50)))
    with pytest.raises(DataError, match="the training split has no labels"):
        NUMBERS.load(tmp_path / "a.csv", text="text", text_pair=None, label="label", unlabelled="keep")


def test_measures_in_words():
    accuracy, pearson = CLASSES.deciding, NUMBERS.deciding
    assert (accuracy.text(0.8364), pearson.text(0.8364), pearson.text(None)) == ("83.6 %", "0.836", "-")
