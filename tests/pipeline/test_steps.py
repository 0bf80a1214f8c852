"""Did it help? Verdicts by their rule, and what a reader is told, against cases worked out by hand."""

from __future__ import annotations

import pytest

from kdnative.pipeline.summary_text import format_summary
from tests.pipeline.figures import evaluated, step, summary


def judged(*steps, **options):
    found = summary(evaluated(*steps, **options))
    return found["steps"], found["findings"]


@pytest.mark.parametrize(
    ("value", "half", "verdict", "note"),
    [
        (0.02, 0.01, "helped", ""),
        (-0.02, 0.01, "cost", ""),
        # n ((1.95996 + 0.84162) / 1.95996 * 0.01 / 0.008)^2 = 1000 * 3.1926
        (0.008, 0.01, "no difference", "an effect of 0.8 points would need about 3,200 of them"),
        (-0.008, 0.01, "no difference", "an effect of 0.8 points would need about 3,200 of them"),
        (0.001, 0.01, "no difference", "an effect of 0.5 points would need about 8,200 of them"),
        (0.0, 0.002, "no difference", "these examples would show an effect of 0.5 points"),
        (0.0, 0.0, "no difference", "the same result on each"),
    ],
)
def test_the_interval_decides(value, half, verdict, note):
    (found,), _ = judged(step(value=value, half=half))
    assert (found["verdict"], found["note"]) == (verdict, note)


def test_a_step_says_what_it_bought_and_what_it_cost():
    bought = {"latency": [["distilled", "native"], ["native", "native"]], "size": ["distilled", "native"]}
    found = summary(evaluated(step("changed", "prune", -0.02, 0.01, bought)))
    (made,) = found["steps"]
    assert made["faster"]["value"] == pytest.approx(1.6) and made["smaller"] == pytest.approx(3.0)
    assert made["seconds"] == 30.0 and found["findings"] == []
    assert (
        "  prune, against hard labels alone: cost, -2.0 points [-3.0, -1.0]; 1.60x [1.60, 1.60] as fast; "
        "3.00x smaller; took 30.0 s"
    ) in format_summary(found)


@pytest.mark.parametrize(
    ("value", "half", "words"),
    [
        (
            -0.02,
            0.01,
            "Training on hard labels alone is better than distillation: the teacher, its "
            "soft labels and distil took 2 min 00 s",
        ),
        (
            0.0,
            0.008,
            "Distillation did not improve on hard labels alone: the teacher, its "
            "soft labels and distil took 2 min 00 s",
        ),
        (
            0.01,
            0.03,
            "The test split is too small to show whether distillation helped: the teacher",
        ),  # up to 4 points may be in it
    ],
)
def test_distillation_that_bought_nothing(value, half, words):
    _, (finding,) = judged(step(value=value, half=half, without=["train_teacher", "compress_teacher", "distil"]))
    assert finding.startswith(words)


def test_a_student_that_is_cut_from_the_teacher_needs_it_without_distillation_too():
    _, (finding,) = judged(step(value=0.0, half=0.008, without=["compress_teacher", "distil"]))
    assert finding.startswith(
        "Distillation did not improve on hard labels alone: the teacher's soft labels and distil took 1 min 00 s"
    )


def test_distillation_that_helped_and_one_without_a_baseline():
    assert judged(step())[1] == []
    (finding,) = summary(evaluated(), baseline=False)["findings"]
    assert finding == "The effect of distillation is unknown, because this recipe has no train_baseline."


@pytest.mark.parametrize(
    ("value", "half", "words"),
    [
        (
            0.0,
            0.008,
            "recover did not improve the student. To convert without it, set recover: null, move its "
            "schemes to convert.schemes and, below 8 bits, add calibrate: {}.",
        ),
        (
            0.01,
            0.03,
            "The test split is too small to show whether recover helped. To convert without it, set recover: null",
        ),
        (-0.02, 0.01, "recover made the student worse. To convert without it, set recover: null"),
    ],
)
def test_quantization_aware_training_that_bought_nothing(value, half, words):
    _, (finding,) = judged(step("trained", "recover", value, half))
    assert finding.startswith(words)


def test_calibration_is_blamed_for_harm_alone():
    assert judged(step("calibrated", "calibrate", 0.0, 0.008))[1] == []
    _, (finding,) = judged(step("calibrated", "calibrate", -0.02, 0.01))
    assert finding.startswith("calibrate made the student worse: raise calibrate.texts")


def test_pruning_that_made_nothing_smaller_or_faster():
    same = {"latency": [["distilled", "native"], ["distilled", "native"]], "size": ["distilled", "distilled"]}
    _, (finding,) = judged(step("changed", "prune", -0.01, 0.02, same))
    assert finding == "prune had no measurable effect: the model is no smaller, and no speed-up is shown."


def history(accuracies, losses):
    return [{"validation_accuracy": a, "validation_loss": b} for a, b in zip(accuracies, losses, strict=True)]


@pytest.mark.parametrize(
    ("accuracies", "losses", "words"),
    [
        (
            (0.80, 0.8478, 0.8562),
            (0.5, 0.6, 0.7),
            "the end of its 3 epochs (validation accuracy: 84.8 % to 85.6 % in the last",
        ),
        (
            (0.80, 0.86, 0.86),
            (0.5, 0.45, 0.4),
            "the end of its 3 epochs (validation loss: 0.450 to 0.400 in the last one)",
        ),
        ((0.80, 0.86, 0.85), (0.5, 0.4, 0.45), None),
        ((0.80,), (0.5,), None),  # of one epoch nobody can tell
    ],
)
def test_a_teacher_that_was_still_improving(accuracies, losses, words):
    found = summary(history=history(accuracies, losses))["findings"]
    assert (words is None and found == []) or words in found[0]


@pytest.mark.parametrize(
    ("ece", "chance", "accuracy", "words"),
    [
        (0.35, 0.05, 0.95, "It is underconfident, which is usual after too few epochs"),
        (0.35, 0.05, 0.25, "It is overconfident: train it with label smoothing"),
        (0.09, 0.05, 0.95, None),
        (0.35, 0.40, 0.95, None),  # so few examples that any classifier looks like this
    ],
)
def test_a_badly_calibrated_teacher(ece, chance, accuracy, words):
    bins = [{"confidence": 0.6, "accuracy": accuracy, "n": 1000}]
    teacher = {"ece": ece, "chance": chance, "n": 1000, "bins": bins}
    _, found = judged(teacher=teacher)
    if words is None:
        assert found == []
    else:
        assert found[0].startswith(
            "The teacher is badly calibrated: its confidence differs from its accuracy by 35 points"
        )
        assert words in found[0] and found[0].endswith(
            "Or set train_teacher.fit_temperature: true to calibrate the confidence."
        )
        calibrated = {"calibration": {"temperature": 0.5}}
        (again,) = summary(evaluated(teacher=teacher), trained=calibrated)["findings"]
        assert words in again and "train_teacher.fit_temperature" not in again
