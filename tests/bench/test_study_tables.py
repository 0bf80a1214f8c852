"""Short tables of the studies: every cell against the result that it comes from."""

from __future__ import annotations

import json

import pytest

from kdnative.bench import blocks, table
from kdnative.machine.environment import environment


def row(way, case="w4a8-g64", texts=128, ours=True, model="m embedder", **figures):
    found = {"figures": {name: [value, 0, 1] for name, value in figures.items()}} if figures else {"reason": "no"}
    return {"model": model, "case": case, "way": way, "texts": texts, "ours": ours, "note": "", **found}


QUALITY = {
    "suite": "quality",
    "environment": environment(1),
    "models": {
        "m embedder": {"task": "embedder", "texts": 1000},
        "m classifier": {"task": "classifier", "texts": 2063, "accuracy": 0.87},
    },
    "rows": [
        row("rtn", "w8a8", 0, distance=0.0027, neighbour=0.927),
        row("rtn", texts=0, distance=0.055, neighbour=0.703),
        row("gptq", distance=0.0229, neighbour=0.802),
        row("gptq layer by layer", distance=0.02, neighbour=0.81),
        row("gptq 512 texts", texts=512, distance=0.0191, neighbour=0.82),
        row("gptq 32 texts", texts=32, distance=0.0305, neighbour=0.78),
        row("awq"),
        row("theirs", ours=False, distance=0.03, neighbour=0.8),
        row("rtn", model="m classifier", kl=0.0113, agreement=0.97, accuracy=0.873),
    ],
}


def filled(tmp_path, words, result):
    (tmp_path / blocks.RESULTS).mkdir(parents=True)
    (tmp_path / blocks.RESULTS / "q.json").write_text(json.dumps(result), encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(f"<!-- table: {words} -->\n<!-- end -->\n", encoding="utf-8")
    lines = blocks.filled(page, tmp_path)[page].splitlines()
    assert lines[1].startswith("`kdnative bench quality`, ")
    return lines[3:-1]


def test_our_ways_in_the_chosen_cases(tmp_path):
    assert filled(tmp_path, "quality q.json task=embedder cases=w4a8-g64,w8a8", QUALITY) == [
        "| scheme | method | 1 - cosine | same nearest |",
        "| --- | --- | --- | --- |",
        "| `w4a8-g64` | rtn | 0.055 | 70.3 % |",
        "| `w4a8-g64` | gptq | 0.0229 | 80.2 % |",
        "| `w4a8-g64` | gptq layer by layer | 0.02 | 81.0 % |",
        "| `w8a8` | rtn | 0.0027 | 92.7 % |",
        "",
        "m embedder, 1,000 texts.",
    ]


def test_a_classifier_says_its_own_accuracy(tmp_path):
    lines = filled(tmp_path, "quality q.json task=classifier cases=w4a8-g64", QUALITY)
    assert lines[2:] == [
        "| `w4a8-g64` | rtn | 0.0113 | 97.0 % | 87.3 % |",
        "",
        "m classifier, 2,063 texts. In float32 it has an accuracy of 87.0 %.",
    ]


def test_numbers_of_texts(tmp_path):
    assert filled(tmp_path, "quality-texts q.json", QUALITY) == [
        "| texts | none | 32 | 128 | 512 |",
        "| --- | --- | --- | --- | --- |",
        "| 1 - cosine | 0.055 | 0.0305 | 0.0229 | 0.0191 |",
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("quality q.json task=decoder", "the result has no decoder; it has classifier, embedder"),
        ("quality q.json cases=w2a8-g32", "m embedder has no case 'w2a8-g32'; it has w8a8, w4a8-g64"),
    ],
)
def test_what_is_not_there(tmp_path, words, text):
    with pytest.raises(ValueError, match=text):
        filled(tmp_path, words, QUALITY)


def test_another_suite(tmp_path):
    with pytest.raises(ValueError, match="needs a result of kdnative bench quality, got the suite 'qat'"):
        filled(tmp_path, "quality q.json", {**QUALITY, "suite": "qat"})


def test_training():
    figures = {"kl": [0.1, 0.09, 0.11], "agreement": [0.9, 0.88, 0.92], "accuracy": [0.85, 0.84, 0.86]}
    against = {**figures, "kl": [0.0123, -0.001, 0.02]}
    result = {
        "suite": "qat",
        "environment": environment(1),
        "texts": 2063,
        "same_bits": {"texts": 1000, "equal": 1000},
        "rows": [
            {"name": "fp32", "scheme": None, "figures": figures, "against": None, "seconds": 0.0},
            {"name": "w2 GPTQ", "scheme": "w2a8-g32", "figures": figures, "against": against, "seconds": 3.4},
        ],
    }
    text = table.markdown(result)
    cells = "0.1 [0.09, 0.11] | 90.0 % [88.0, 92.0] | 85.0 % [84.0, 86.0]"
    assert f"| fp32 | - | {cells} | - | 0 |" in text
    assert f"| w2 GPTQ | w2a8-g32 | {cells} | +0.0123 [-0.0010, +0.0200] | 3 |" in text
    assert "on 1,000 of 1,000 texts, bit for bit" in text


def test_trials_of_the_gate():
    returned = {"budget": 0.02, "refused": None, "bytes": 50, "samples": [1.0], "eight_bits_samples": [2.0]}
    trials = [
        {**returned, "seed": 0, "bound": 0.0195, "held_out": 0.011, "shares": {"w4a8-g64": 0.6, "w8a8": 0.4}},
        {"seed": 1, "budget": 0.02, "refused": "no", "needed": 9},
    ]
    eight = {"scheme": "w8a8", "bytes": 100}
    text = table.markdown({"suite": "gate", "environment": environment(1), "trials": trials, "eight_bits": eight})
    assert "- budget 2.0%: 1 of 2 returned, 1 refused; 1 of 1 within budget" in text
    assert "| 2 % | 0 | 1.95 % | 1.10 % | 60% w4a8-g64, 40% w8a8 |" in text
    assert text.count("| 2 % |") == 1
