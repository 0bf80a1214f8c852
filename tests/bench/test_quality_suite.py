"""The quality suite in miniature: random models, words as lengths, ways that fail, and goals."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdnative.bench import quality, table
from kdnative.bench.quality_cases import Case, cases_of
from kdnative.bench.quality_decoder import Decoder
from kdnative.bench.quality_goals import GOALS, Goal, goals
from kdnative.bench.quality_lines import goal_text
from kdnative.bench.quality_subjects import Classifier, Embedder
from kdnative.bench.quality_ways import Cost, Way, counted, sparse_ways, ways

transformers = pytest.importorskip("transformers", reason='needs pip install "kdnative[pipeline]"')


class Words:
    """A tokenizer: a word is its length."""

    def __call__(self, texts, padding, truncation, max_length, return_tensors):
        rows = [[10 + len(word) for word in text.split()][:max_length] for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}


def text(seed):
    return " ".join("x" * (1 + (seed * j * j) % 41) for j in range(1, 4 + seed % 9))


MEASURING, CALIBRATING = [text(i) for i in range(1, 41)], [text(i) for i in range(41, 82)]
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 64,
}


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SMALL), add_pooling_layer=False)
    return Embedder("tiny", model, Words(), MEASURING, CALIBRATING)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, num_labels=3))
    labels = [i % 3 for i in range(40)]
    return Classifier("tiny", model, Words(), MEASURING, CALIBRATING, labels=labels)


def test_answers_are_in_the_order_of_the_texts(embedder):
    found = embedder.answers(embedder.model)
    for i in (0, 7, 39):
        inputs = Words()([MEASURING[i]], True, True, 128, "pt")
        with torch.inference_mode():
            hidden = embedder.model(**inputs).last_hidden_state.double()[0].mean(0)
        assert torch.allclose(found[i], hidden / hidden.norm(), atol=1e-5)


def test_texts_that_calibrate_measure_nothing(embedder):
    with pytest.raises(ValueError, match="1 texts calibrate and measure, such as 'x'"):
        Embedder("tiny", embedder.model, Words(), ["x", "xx"], ["xxx", "x"])
    with pytest.raises(ValueError, match="42 texts to calibrate with are asked for, and there are 41"):
        embedder.calibration(42)
    assert [len(batch["input_ids"]) for batch in embedder.calibration(41)] == [32, 9]
    assert [len(batch["input_ids"]) for batch in embedder.calibration(41, whole=True)] == [41]
    assert [len(batch["input_ids"]) for batch in embedder.calibration(3, batch=1)] == [1, 1, 1]


def test_a_label_for_each_text(classifier):
    with pytest.raises(ValueError, match="40 texts, but 2 labels"):
        Classifier("tiny", classifier.model, Words(), MEASURING, CALIBRATING, labels=[0, 1])


def test_ours_on_a_tiny_model(embedder):
    lines = []
    case = Case("w4a8-g32", "w4a8-g32", tuple(ways(41, ["clip search", "clip", "gptq"])))
    before = copy.deepcopy(embedder.model.state_dict())
    result = quality.run([embedder], lambda subject: [case], show=lines.append)
    first, search, clip, gptq = result["rows"]
    assert [row["way"] for row in result["rows"]] == ["rtn", "clip search", "clip", "gptq"]
    assert first["figures"]["distance"][0] > 0 and "to_baseline" not in first
    value, low, high = gptq["to_baseline"]["distance"]
    assert value == pytest.approx(gptq["figures"]["distance"][0] / first["figures"]["distance"][0], rel=1e-3)
    assert low <= value <= high and value < 1  # on inputs of few different kinds, rounding in order always pays
    assert (first["texts"], clip["texts"], gptq["texts"]) == (0, 41, 41)
    assert all(torch.equal(value, before[name]) for name, value in embedder.model.state_dict().items())
    assert any(line.startswith("  gptq") and "same nearest" in line for line in lines)
    text = table.markdown({**result, "goals": []})
    assert "| gptq | " in text and "tiny embedder, w4a8-g32, 40 texts:" in text


def test_a_way_that_fails_says_why(embedder):
    def fails(subject, scheme, cost):
        raise RuntimeError("no\nkernel")

    def nothing(subject, scheme, cost):
        return lambda input_ids, attention_mask: SimpleNamespace(
            last_hidden_state=torch.full((*input_ids.shape, 64), torch.nan)
        )

    peer = Way("rival", lambda *_: pytest.fail("was run"), ours=False, packages=("no_such_package_here",))
    case = Case("w8a8", "w8a8", (Way("fails", fails), Way("nan", nothing), peer))
    rows = quality.run([embedder], lambda subject: [case])["rows"]
    assert rows[0]["reason"] == "RuntimeError: no kernel"
    assert rows[1]["reason"] == "ValueError: the model's answers hold NaN or infinite values"
    assert rows[2]["reason"].startswith("not installed: no_such_package_here: pip install")
    assert not any("figures" in row for row in rows)


def test_the_way_settled_before_is_compared_with_the_best_peer(embedder):
    """Not the best of ours, which is chosen by the very texts that measure, and may have more bits or texts."""

    def blurred(size):
        def make(subject, scheme, cost):
            def run(**inputs):
                hidden = subject.model(**inputs).last_hidden_state
                noise = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
                return SimpleNamespace(last_hidden_state=hidden + size * noise)

            return run

        return make

    found = (
        Way("a", blurred(0.5)),
        Way("b", blurred(0.1)),
        Way("c", blurred(0.2), ours=False),
        Way("d", blurred(0.4), ours=False),
    )
    result = quality.run([embedder], lambda subject: [Case("w8a8", "w8a8", found, beside="a")])
    own = result["rows"][0]
    assert (own["peer"], own["deciding"]) == ("c", "distance") and own["to_peer"][1] > 1
    assert [row["way"] for row in result["rows"] if "peer" in row] == ["a"]
    (against,) = [goal for goal in result["goals"] if "best peer" in goal["goal"]]
    assert not against["met"] and against["value"] == own["to_peer"][1]
    better = quality.run([embedder], lambda subject: [Case("w8a8", "w8a8", found, beside="b")])
    assert [goal["met"] for goal in better["goals"] if "best peer" in goal["goal"]] == [True]
    none = quality.run([embedder], lambda subject: [Case("w8a8", "w8a8", found[1:], beside="a")])
    assert not any("peer" in row for row in none["rows"])


def test_slow_peers_wait_for_their_option(classifier):
    case = Case("w8a8", "w8a8", (Way("slow", lambda *_: pytest.fail("was run"), slow=True),))
    (row,) = quality.run([classifier], lambda subject: [case])["rows"]
    assert row["reason"] == "left out: --slow-peers measures it"


def test_zeros_in_one_shot(classifier):
    magnitude, sparsegpt = sparse_ways("2:4", 41)
    found = quality.run([classifier], lambda subject: [Case("2:4", "w8a8", (magnitude, sparsegpt))])
    assert [row["way"] for row in found["rows"]] == ["magnitude", "sparsegpt"]
    assert all("figures" in row for row in found["rows"]), found["rows"]
    assert found["models"]["tiny classifier"]["accuracy"] == classifier.about()["accuracy"]


def test_losses_of_a_language_model_are_those_of_second_halves():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2, vocab_size=50
    )
    model = transformers.LlamaForCausalLM(config).eval()
    windows = [tuple(int(i) for i in np.random.default_rng(s).integers(0, 50, 12)) for s in range(6)]
    subject = Decoder("tiny", model, None, windows[:4], windows[4:])
    with torch.inference_mode():
        log_p = model(torch.tensor([windows[2]])).logits[0].double().log_softmax(-1)
    expected = -sum(float(log_p[i - 1, windows[2][i]]) for i in range(6, 12)) / 6
    assert float(subject.exact[2]) == pytest.approx(expected, rel=1e-5)
    assert subject.schemes("w4a8-g32") == {"lm_head": "w8a8", "*": "w4a8-g32"}
    case = Case("w4a8-g32", "w4a8-g32", tuple(ways(2, ["gptq"])))
    rows = quality.run([subject], lambda subject: [case])["rows"]
    assert rows[0]["figures"]["perplexity"][0] > 1 and "perplexity" in rows[1]["to_baseline"]


def test_cost_counts_time_and_memory():
    cost = Cost()
    with counted(cost):
        block = torch.ones(40 << 20, dtype=torch.uint8)
        del block
    assert cost.seconds > 0 and (cost.peak is None or 35e6 < cost.peak < 400e6)


def test_cases():
    found = cases_of("embedder", ["w8a8", "2:4", "w4a8-g64"], 128, counts=[32], peers=True)
    assert [case.name for case in found] == ["w8a8", "w4a8-g64"]
    four = [way.name for way in found[1].ways]
    assert four[0] == "rtn" and {"awq+gptq", "gptq 32 texts", "torchao hqq", "nncf awq + scale estimation"} <= set(four)
    assert {way.name for way in found[0].ways} >= {"smoothquant", "torchao smoothquant", "nncf int8"}
    assert [case.name for case in cases_of("classifier", ["2:4"], 128)] == ["2:4"]
    for case in cases_of("embedder", ["w8a8", "w4a8-g64", "w2a8-g32", "w8a16", "w4a16-g64", "w2a16-g32"], 128):
        expected = {"w8a8": "smoothquant", "w4": "awq+gptq"}.get(case.name[: 4 if case.name == "w8a8" else 2], "gptq")
        assert case.beside == expected and expected in [way.name for way in case.ways]
    with pytest.raises(ValueError, match="no way called 'gtpq'; there are rtn, clip search"):
        cases_of("embedder", ["w8a8"], 128, methods=["gtpq"])
    with pytest.raises(ValueError, match="w9a8"):
        cases_of("embedder", ["w9a8"], 128)


def row(model, task, case, way, **figures):
    return {
        "model": model,
        "task": task,
        "case": case,
        "way": way,
        "texts": 128,
        "seconds": 12.0,
        "peak": 2e8,
        **figures,
    }


def test_goals_are_computed_from_the_rows():
    eight = {"distance": [0.0016, 0, 1], "neighbour": [0.96, 0, 1]}
    two = {"kl": [0.09, 0, 1], "accuracy": [0.84, 0, 1]}
    four = {"figures": {"kl": [9, 0, 1]}, "to_baseline": {"kl": [0.4, 0, 1]}}
    rows = [
        row("minilm-l6 embedder", "embedder", "w8a8", "smoothquant", figures=eight),
        row("minilm-l6 classifier", "classifier", "w2a8-g32", "gptq", figures=two),
        row("m classifier", "classifier", "w4a8-g64", "awq+gptq", **four),
        row("m classifier", "classifier", "w4a8-g64", "clip", reason="no kernel"),
    ]
    result = {"rows": rows, "models": {"minilm-l6 classifier": {"accuracy": 0.87}}}
    found = {goal["goal"]: goal for goal in goals(result)}
    assert {text: goal["met"] for text, goal in found.items()} == {
        "1 - cosine <= 0.0015": False,
        "same nearest >= 95 %": True,
        "KL <= 0.1": True,
        "accuracy >= fp32 -2 points": False,
        "128 texts in <= 10 s": False,
        "KL <= 0.45 of rtn": True,
    }
    assert found["accuracy >= fp32 -2 points"]["value"] == pytest.approx(-0.03)
    timed = [goal for goal in goals(result) if "texts in" in goal["goal"]]
    assert [goal["way"] for goal in timed] == ["smoothquant", "gptq"]
    assert goal_text(timed[0]).endswith("128 texts in <= 10 s: 12, peak 200 MB, MISSED")


def test_goals_name_ways_that_there_are():
    names = {way.name for way in ways(128)} | {way.name for way in sparse_ways("2:4", 128)}
    assert {way for goal in GOALS for way in goal.ways} <= names
    assert (
        Goal("embedder", "w4a8-g64", ("gptq",), "neighbour", 0.1, "to_baseline").text
        == "same nearest >= rtn +10 points"
    )
