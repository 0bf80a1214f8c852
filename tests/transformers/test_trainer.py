"""transformers' Trainer: evaluation of native models as they are, and distillation."""

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import kdnative as kd  # noqa: E402
from kdnative.transformers import DistillationTrainer  # noqa: E402
from tests.small_models import bert  # noqa: E402
from tests.transformers.students import TEXTS, full, text_logits, tokenizer  # noqa: E402

WORDS = tokenizer()
ROWS = [{**WORDS(text), "labels": i % 3} for i, text in enumerate(TEXTS * 3)]


def arguments(place, **options):
    settings = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "seed": 1, **options}
    return transformers.TrainingArguments(str(place), per_device_train_batch_size=4, **settings)


def test_a_native_model_is_evaluated_as_it_is(tmp_path):
    kd.save(full(), tmp_path / "m", tokenizer=WORDS)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    trainer = transformers.Trainer(model, arguments(tmp_path), eval_dataset=ROWS, processing_class=WORDS)
    logits = text_logits(model).repeat(3, 1)
    labels = torch.tensor([row["labels"] for row in ROWS])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))
    np.testing.assert_array_equal(trainer.predict(ROWS).predictions, logits.numpy())
    trainer.save_model(str(tmp_path / "saved"))
    assert torch.equal(text_logits(kd.load(tmp_path / "saved")), logits[:4])


def test_the_loss_is_that_of_the_formula(tmp_path):
    student, teacher = bert(seed=1), bert(seed=2)
    options = {"args": arguments(tmp_path), "train_dataset": ROWS, "processing_class": WORDS}
    trainer = DistillationTrainer(
        student, teacher=teacher, temperature=3.0, soft_weight=0.7, hard_weight=0.2, **options
    )
    inputs = dict(WORDS(TEXTS, padding=True, return_tensors="pt"))
    labels = torch.tensor([0, 2, -100, 1])
    student.train()
    torch.manual_seed(0)
    found, outputs = trainer.compute_loss(student, {**inputs, "labels": labels}, return_outputs=True)
    s = outputs.logits.double() / 3
    with torch.no_grad():
        t = teacher(**inputs).logits.double() / 3
    soft = 9 * (t.softmax(-1) * (t.log_softmax(-1) - s.log_softmax(-1))).sum(-1).mean()
    hard = torch.nn.functional.cross_entropy(outputs.logits.double(), labels)
    assert float(found) == pytest.approx(float(0.7 * soft + 0.2 * hard), rel=1e-5)
    found.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_a_student_gets_nearer_to_its_native_teacher(tmp_path):
    teacher, student = full(), bert(seed=7)
    unlabelled = [{**row, "labels": -100} for row in ROWS]
    options = {"train_dataset": unlabelled, "processing_class": WORDS}

    def distance():
        with torch.no_grad():
            a, b = text_logits(teacher).log_softmax(-1), text_logits(student.eval()).log_softmax(-1)
        return float((a.exp() * (a - b)).sum(-1).mean())

    before = distance()
    training = arguments(tmp_path, num_train_epochs=10, learning_rate=2e-3)
    DistillationTrainer(student, teacher=teacher, args=training, hard_weight=0.0, **options).train()
    assert distance() < 0.3 * before


def test_a_loss_of_the_library(tmp_path):
    from kdnative.distill.terms import SOFT_LOSSES

    assert "dist" in SOFT_LOSSES
    options = {"args": arguments(tmp_path, max_steps=1), "train_dataset": ROWS, "processing_class": WORDS}
    trainer = DistillationTrainer(
        bert(seed=1), teacher=bert(seed=2), loss=SOFT_LOSSES["dist"](2.0, weight=1.0), **options
    )
    assert trainer.train().training_loss > 0
