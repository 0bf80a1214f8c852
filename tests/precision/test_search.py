"""The order of tests, and how often it lets a model through that is not within budget."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from kdnative.precision.assigning import FLOAT, Assignment
from kdnative.precision.judging import Judge
from kdnative.precision.metrics import METRICS, Answers
from kdnative.precision.search import Paths, Search
from kdnative.precision.sensitivity import Sensitivity

CERTIFYING = np.arange(1000)
CHOOSING = np.arange(1000, 1200)


def rung(share, scheme="w8a8"):
    """An assignment whose model changes a share of all answers."""
    return Assignment((Sensitivity(("a",), "a", scheme, 1, round(1e6 * (1 - share)), share),))


def search(seed, budget=0.02):
    """A search over models that change each answer with a probability, drawn anew for every model and example."""
    generator = np.random.default_rng(seed)
    tested = []

    def run(model, rows):
        changed = generator.random(len(rows)) < (model or 0)
        outputs = torch.zeros(len(rows), 2)
        outputs[np.arange(len(rows)), changed.astype(int)] = 1
        tested.append((model, len(rows)))
        return Answers("classes", [outputs], None, [rows])

    conversions = SimpleNamespace(model=None, of_assignment=lambda assignment: assignment.loss)
    made = Search(
        conversions, run, lambda original: Judge(METRICS["agreement"], original, None, 0.95), budget, lambda _: None
    )
    return made, tested


def test_the_returned_model_exceeds_its_budget_in_one_of_twenty_cases_at_most():
    """Shares on both sides of 2 %, close together: many chances to be wrong, if each test were one."""
    shares = (0.004, 0.008, 0.0201, 0.0202, 0.0203, 0.0204, 0.0205)
    paths, wrong, found_any = Paths([rung(share) for share in shares], []), 0, 0
    for seed in range(400):
        found = search(seed)[0].find(paths, CHOOSING, CERTIFYING)
        found_any += found is not None
        wrong += found is not None and found[0].loss > 0.02
    assert found_any > 380
    assert 0 < wrong <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


def test_it_ends_at_the_first_failure_and_tests_nothing_twice():
    made, tested = search(0)
    found = made.find(Paths([rung(s) for s in (0.0, 0.001, 0.5, 0.0)], []), CHOOSING, CERTIFYING)
    assert found[0].loss == 0.001 and [model for model, _ in tested] == [None, 0.0, 0.001, 0.5]
    assert [trial.passed for trial in made.trials] == [True, True, False]
    assert {count for _, count in tested} == {1000}, "without a way out to float the choosing part is not run"


def test_layers_stay_float_only_where_the_choosing_part_says_so():
    floats = [rung(0.001, FLOAT), rung(0.002, FLOAT)]
    made, tested = search(0)
    found = made.find(Paths([rung(0.0), rung(0.5)], floats), CHOOSING, CERTIFYING)
    assert found[0].loss == 0.0 and not any(FLOAT in trial.shares for trial in made.trials)
    assert [count for _, count in tested] == [1000, 200, 200, 1000, 1000]
    made, tested = search(0)
    found = made.find(Paths([rung(0.1), rung(0.5)], floats), CHOOSING, CERTIFYING)
    assert found[0].loss == 0.002 and [FLOAT in t.shares for t in made.trials] == [True, True, False]


def test_refusals_say_whether_more_examples_would_help():
    report = SimpleNamespace(words="share", confidence=0.95)
    made, _ = search(0)
    assert made.find(Paths([rung(0.5)], []), CHOOSING, CERTIFYING) is None
    text, _, needed = made.refusal(report, lambda n: 2 * n)
    assert needed is None and text.startswith(
        "the budget of 0.02 is exceeded: the conversion with the smallest expected loss"
    )
    assert "no other conversion was tested" in text
    made, _ = search(1)
    assert made.find(Paths([rung(0.016)], []), CHOOSING, CERTIFYING) is None
    text, _, needed = made.refusal(report, lambda n: 2 * n)
    assert needed > 1000 and "can't be shown with 2000 examples" in text and f"needs about {2 * needed}." in text
