"""Metrics and intervals against scikit-learn, formulas and counting."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, log_loss, precision_recall_fscore_support
from torch import nn

from kdnative.data import Batches
from kdnative.evaluate import (
    Interval,
    Predictions,
    agreement,
    calibration_error,
    evaluate,
    examples_needed,
    logits_of,
    macro_f1,
    measure,
    paired_difference,
    paired_ratio,
    predict,
    wilson,
)
from kdnative.evaluate.predict import fast_bf16, select_device
from tests.distill.tiny import model, tokens


def random_predictions(n=200, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator) + 1.5 * nn.functional.one_hot(labels, classes)
    return Predictions(logits, labels, tuple(f"class {i}" for i in range(classes)))


class TestMetrics:
    def test_against_scikit_learn(self):
        p = random_predictions()
        found, true, guess = measure(p), p.labels.numpy(), p.classes.numpy()
        assert found.accuracy == float((true == guess).mean())
        assert found.confusion == confusion_matrix(true, guess).tolist()
        assert found.macro_f1 == pytest.approx(f1_score(true, guess, average="macro"), rel=1e-12)
        assert macro_f1(true, guess) == pytest.approx(found.macro_f1, rel=1e-12)
        assert found.nll == pytest.approx(log_loss(true, p.logits.double().softmax(-1).numpy()), rel=1e-9)
        columns = precision_recall_fscore_support(true, guess)
        for i, row in enumerate(found.per_class.values()):
            assert list(row.values()) == pytest.approx([c[i] for c in columns], rel=1e-12)

    def test_classes_that_never_occur(self):
        logits = torch.eye(5)[torch.tensor([0, 0, 1, 3])]
        p = Predictions(logits, torch.tensor([0, 1, 1, 0]))
        expected = f1_score([0, 1, 1, 0], [0, 0, 1, 3], average="macro", zero_division=0)
        assert measure(p).macro_f1 == pytest.approx(expected, rel=1e-12)
        assert measure(p).per_class["4"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 0}

    def test_single_example(self):
        found = measure(Predictions(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        assert found.accuracy == found.macro_f1 == 1.0
        assert found.intervals["accuracy"].high == 1.0 and found.intervals["accuracy"].low < 0.3

    def test_calibration_by_hand(self):
        # two bins of ten used: (0.5, 0.6] holds 0.6 0.6 (one right), (0.9, 1] holds 0.95 1.0 (both right)
        confidence, hits = np.array([0.6, 0.6, 0.95, 1.0]), np.array([True, False, True, True])
        assert calibration_error(confidence, hits, 10) == pytest.approx((abs(1 - 1.2) + abs(2 - 1.95)) / 4)
        assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0.0
        with pytest.raises(ValueError, match="bins=0"):
            calibration_error(confidence, hits, 0)

    def test_same_seed_same_interval(self):
        p = random_predictions()
        assert measure(p, seed=3) == measure(p, seed=3)
        assert measure(p, seed=3).intervals["macro_f1"] != measure(p, seed=4).intervals["macro_f1"]

    @pytest.mark.parametrize(
        ("logits", "labels", "message"),
        [
            (torch.zeros(2, 2), None, "no labels"),
            (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), "0 rows"),
            (torch.zeros(2, 2), torch.tensor([0, 2]), "within 0 and 1"),
            (torch.zeros(2, 2), torch.tensor([0]), "2 rows"),
            (torch.tensor([[0.0, torch.nan]]), torch.tensor([0]), "NaN or infinite"),
        ],
    )
    def test_unusable(self, logits, labels, message):
        with pytest.raises(ValueError, match=message):
            measure(Predictions(logits, labels))


class TestIntervals:
    @pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 1), (871, 1038), (3, 7)])
    def test_wilson_solves_its_equation(self, k, n):
        found, z = wilson(k, n), 1.959963984540054
        for end in (found.low, found.high):  # (p - p0)^2 = z^2 p0 (1 - p0) / n, where the ends are the p0
            assert (k / n - end) ** 2 == pytest.approx(z * z * end * (1 - end) / n, abs=1e-12)
        assert 0.0 <= found.low <= k / n <= found.high <= 1.0

    def test_wilson_known_values(self):
        # the interval for 0 of 10 is (0, z^2 / (n + z^2))
        assert wilson(0, 10)[:3] == pytest.approx((0.0, 0.0, 3.841458820694124 / 13.841458820694124), abs=1e-12)
        with pytest.raises(ValueError, match="successes=2, n=1"):
            wilson(2, 1)

    def test_bootstrap_of_a_mean_matches_its_theory(self):
        labels = np.zeros(1000, int)
        a, b = labels.copy(), labels.copy()
        a[:200] = 1  # a is wrong on 200; b on 50 of those and on 50 others
        b[150:250] = 1
        found = paired_difference(a, b, labels, resamples=20000)
        assert found.value == pytest.approx(0.1)
        deviation = math.sqrt((0.2 - 0.1**2) / 1000)  # outcomes +1 (150), -1 (50), 0 (800)
        assert (found.low, found.high) == pytest.approx((0.1 - 1.96 * deviation, 0.1 + 1.96 * deviation), abs=0.0025)

    def test_bootstrap_covers_macro_f1_as_resampling_the_examples_does(self):
        p = random_predictions(120, 3)
        true, guess, generator = p.labels.numpy(), p.classes.numpy(), np.random.default_rng(1)
        draws = (generator.integers(120, size=120) for _ in range(2000))
        low, high = np.quantile([macro_f1(true[i], guess[i]) for i in draws], (0.025, 0.975))
        found = measure(p, resamples=4000).intervals["macro_f1"]
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.015)

    def test_paired_ratio_is_the_bootstrap_of_the_examples(self):
        generator = np.random.default_rng(4)
        labels = np.zeros(400, int)
        a, b = (generator.random(400) < 0.3).astype(int), (generator.random(400) < 0.35).astype(int)
        draws = (generator.integers(400, size=400) for _ in range(4000))
        low, high = np.quantile([(b[i] == 0).sum() / (a[i] == 0).sum() for i in draws], (0.025, 0.975))
        found = paired_ratio(a, b, labels, resamples=4000)
        assert found.value == pytest.approx((b == 0).sum() / (a == 0).sum())
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)
        assert paired_ratio(a, a, labels)[:3] == (1.0, 1.0, 1.0)

    def test_paired_ratio_to_a_model_that_is_never_right(self):
        assert paired_ratio([1, 1], [0, 1], [0, 0]) is None
        found = paired_ratio([0, 1, 1], [0, 0, 1], [0, 0, 0])  # some resamples lack the one that a has right
        assert found.value == 2.0 and np.isfinite(found).all()

    def test_as_many_examples_as_needed_show_the_effect_in_80_of_100_tests(self):
        """Simulated: outcomes +1 and -1 of 10 % of the examples, with a mean of 2 points."""
        effect, changed, generator = 0.02, 0.1, np.random.default_rng(0)
        half = 1.96 * math.sqrt((changed - effect**2) / 1000)
        n = examples_needed(Interval(0.0, -half, half, 1000), effect)
        shares = [(changed + effect) / 2, (changed - effect) / 2, 1 - changed]
        plus, minus, _ = generator.multinomial(n, shares, size=4000).T
        mean = (plus - minus) / n
        low = mean - 1.96 * np.sqrt(((plus + minus) / n - mean**2) / n)
        assert (low > 0).mean() == pytest.approx(0.8, abs=0.03)

    def test_paired_difference_of_the_same_is_exactly_zero(self):
        p = random_predictions()
        assert paired_difference(p, p.logits, p.labels)[:3] == (0.0, 0.0, 0.0)

    def test_agreement_takes_every_form(self):
        a, b = random_predictions(seed=0), random_predictions(seed=1)
        share = float((a.classes == b.classes).float().mean())
        for x, y in itertools.product((a, a.logits, a.classes.tolist()), (b, b.logits.numpy(), b.classes)):
            assert agreement(x, y) == agreement(a, b)
        assert agreement(a, b).value == pytest.approx(share)
        with pytest.raises(ValueError, match="200 and 3 examples"):
            agreement(a, [0, 1, 0])
        with pytest.raises(ValueError, match="integer class numbers"):
            agreement([0.5, 1.0], [0, 1])


class TestPredict:
    def test_order_mode_and_gradient(self):
        data, student = tokens(37), model(0, dropout=0.9)
        student.norm.eval()
        student.train(True)
        student.norm.eval()
        found = predict(student, data, batch_size=8, device="cpu")
        assert student.training and not student.norm.training, "every module's own mode comes back"
        assert not found.logits.requires_grad and found.labels.tolist() == data.labels.tolist()
        student.eval()
        for i in (0, 17, 36):
            row = torch.from_numpy(data[i].astype(np.int64))[None]
            torch.testing.assert_close(
                found.logits[i], student(row, torch.ones_like(row)).logits[0], atol=1e-5, rtol=1e-5
            )
        shuffled = predict(student, Batches(data, 5, shuffle=True), device="cpu")
        torch.testing.assert_close(shuffled.logits, found.logits, atol=1e-5, rtol=1e-5)

    def test_mode_comes_back_after_an_error(self):
        student = model(0).train()
        student.classifier = nn.Linear(3, 2)
        with pytest.raises(RuntimeError):
            predict(student, tokens(4), device="cpu")
        assert student.training and torch.is_grad_enabled()

    def test_outputs_of_every_kind(self):
        logits = torch.zeros(2, 2)
        for output in (logits, (logits, 1), [logits], {"logits": logits}, SimpleNamespace(logits=logits)):
            assert logits_of(output) is logits
        with pytest.raises(TypeError, match="no logits in a dict"):
            logits_of({"scores": logits})

    def test_wrong_shape_no_data_no_device(self):
        class PerToken(nn.Module):
            def forward(self, input_ids, attention_mask):
                return torch.zeros(*input_ids.shape, 2)

        with pytest.raises(ValueError, match=r"not one row each"):
            predict(PerToken(), tokens(4), device="cpu")
        with pytest.raises(ValueError, match="the dataset is empty"):
            predict(model(0), tokens(0), device="cpu")
        with pytest.raises(ValueError, match="amp='yes'"):
            predict(model(0), tokens(4), device="cpu", amp="yes")
        if not torch.cuda.is_available():
            with pytest.raises(ValueError, match="no CUDA device"):
                select_device("cuda")

    def test_automatic_choices_are_possible_ones(self):
        assert select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
        assert isinstance(fast_bf16(torch.device("cpu")), bool)
        assert fast_bf16(torch.device("meta")) is False


def test_evaluate_is_measure_of_predict():
    data, student = tokens(50), model(0)
    assert evaluate(student, data, device="cpu") == measure(predict(student, data, device="cpu"))
    unlabelled = tokens(10, labelled=False)
    with pytest.raises(ValueError, match="no labels"):
        evaluate(student, unlabelled, device="cpu")
