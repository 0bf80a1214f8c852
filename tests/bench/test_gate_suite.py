"""The suite of the gate on a small classifier: its trials, and that the gate never sees held-out texts."""

from __future__ import annotations

import json

import pytest
import torch

from kdnative.bench import gate as suite
from tests.small_models import bert


class Words:
    """A tokenizer of numbers: a text is its ids."""

    pad_token_id = 0
    model_input_names = ("input_ids", "attention_mask")

    def __call__(self, texts, truncation=True, max_length=128, padding=False, return_tensors=None, **_):
        rows = [[int(word) for word in text.split()][:max_length] for text in texts]
        if return_tensors is None:
            return {"input_ids": rows}
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def texts(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [" ".join(map(str, torch.randint(5, 200, (8,), generator=generator).tolist())) for _ in range(n)]


@pytest.fixture(scope="module")
def result():
    net = bert()
    with torch.no_grad():  # so that texts differ in their class
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    said = []
    made = suite.run(
        net,
        Words(),
        texts(300),
        texts(40, seed=1),
        schemes=["w4a8-g32", "w8a8"],
        budgets=[0.005, 0.4],
        seeds=range(2),
        method="rtn",
        show=said.append,
    )
    return made, said


def test_each_seed_has_each_budget_and_a_small_one_is_refused_in_words(result):
    made, said = result
    assert [(t["seed"], t["budget"]) for t in made["trials"]] == [(s, b) for s in range(2) for b in (0.005, 0.4)]
    refused, returned = made["trials"][0::2], made["trials"][1::2]
    assert all("can't be shown with 200 examples" in t["refused"] and t["needed"] == 598 for t in refused)
    for trial in returned:
        assert trial["refused"] is None and trial["bound"] <= 0.4 and trial["held_out_texts"] == 100
        assert trial["bytes"] <= made["eight_bits"]["bytes"] and sum(trial["shares"].values()) == pytest.approx(1)
        assert len(trial["samples"]) == len(trial["eight_bits_samples"]) == 9
    assert json.loads(json.dumps(made)) == made
    assert "budget 0.5%: 0 of 2 returned, 2 refused" in said
    assert any(line.startswith("budget 40.0%: 2 of 2 returned, 0 refused; 2 of 2 within budget") for line in said)


def test_held_out_texts_are_none_of_the_gates(monkeypatch):
    seen = []

    class Refusing:
        def __init__(self, *, data, **_):
            seen.append(data)

        def convert_(self, *_, **__):
            from kdnative import GateError
            from kdnative.precision import GateReport

            raise GateError("no", GateReport("agreement", "", 0.1, 0.95, 1, 1))

    monkeypatch.setattr("kdnative.Gate", Refusing)
    every = texts(30)
    suite.run(bert(), Words(), every, texts(16, 1), schemes=["w8a8"], budgets=[0.1], seeds=range(2), method="rtn")
    assert [len(part) for part in seen] == [20, 20] and all(set(part) < set(every) for part in seen)
    assert set(seen[0]) != set(seen[1])


def test_the_summary_counts_models_that_exceed_their_budget():
    returned = {"seed": 0, "budget": 0.02, "refused": None, "bytes": 50, "samples": [1.0], "eight_bits_samples": [2.0]}
    trials = [{**returned, "held_out": share} for share in (0.01, 0.02, 0.021)] + [
        {"seed": 3, "budget": 0.02, "refused": "no", "needed": 9}
    ]
    (line,) = suite.summary({"trials": trials, "eight_bits": {"scheme": "w8a8", "bytes": 100}})
    assert line == (
        "budget 2.0%: 3 of 4 returned, 1 refused; 2 of 3 within budget on held-out texts; against w8a8 everywhere "
        "2.00x smaller, 2.00x as fast (medians)"
    )


def test_options():
    for wrong in ("0", "1", "a", "0.1,2"):
        with pytest.raises(SystemExit):
            suite.main(["--budgets", wrong])
