"""The accuracy suite: pooling against another computation, and what it says of a tiny model."""

import types

import pytest
import torch

from kdnative.bench import accuracy
from kdnative.bench.encoder_models import load_encoder
from kdnative.data import Dataset, DataSplits, Example

pytest.importorskip("transformers", reason='needs pip install "kdnative[pipeline]"')


class Words:
    """A tokenizer: a word is its length."""

    def __call__(self, texts, padding, truncation, max_length, return_tensors):
        assert padding and truncation and return_tensors == "pt"
        rows = [[10 + len(word) for word in text.split()][:max_length] for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}


def test_embeddings_are_means_over_the_tokens():
    def model(input_ids, attention_mask):
        hidden = torch.stack([input_ids.float(), torch.ones(input_ids.shape)], dim=-1)
        return types.SimpleNamespace(last_hidden_state=hidden)

    found = accuracy.embed(model, Words(), ["a bbb", "cc"] * 40, max_tokens=8)
    expected = torch.nn.functional.normalize(torch.tensor([[12.0, 1.0]], dtype=torch.float64))
    assert found.shape == (80, 2)
    assert all(torch.allclose(found[i : i + 1], expected) for i in (0, 1, 78, 79))  # (11 + 13) / 2 and 12


def test_rows_of_a_tiny_model():
    texts = [" ".join("x" * (1 + (i * j) % 17) for j in range(1, 4 + i % 9)) for i in range(1, 40)]
    lines = []
    result = accuracy.run(load_encoder("random-tiny"), Words(), texts, schemes=["w8a8", "w2a8-g32"], show=lines.append)
    assert (result["suite"], result["sentences"], result["pairs"]) == ("accuracy", 39, 39 * 38 // 2)
    eight, two = result["cases"]
    assert [case["scheme"] for case in (eight, two)] == ["w8a8", "w2a8-g32"]
    assert 0.99 < eight["min_cosine"] <= eight["mean_cosine"] <= 1 and eight["spearman"] > 0.98
    assert two["mean_cosine"] < eight["mean_cosine"] and two["spearman"] < eight["spearman"]  # it notices what is lost
    assert len(lines) == 1 + 3 * 2 and "spearman >= 0.995: 0." in lines[-2]
    assert lines[-1] == f"w2a8-g32, 39 sentences, least cosine: {two['min_cosine']:.5g}"
    assert [goal["goal"] for goal in accuracy.goals(eight)] == ["mean cosine >= 0.995", "spearman >= 0.995"]
    assert accuracy.goals(eight)[0] == {
        "goal": "mean cosine >= 0.995", "value": eight["mean_cosine"], "limit": 0.995, "met": True,
    }  # fmt: skip


def test_sentences_are_different_and_held_out_first(monkeypatch):
    def part(*texts):
        return Dataset([Example({"text": text}, str(i)) for i, text in enumerate(texts)])

    splits = DataSplits(train=part("a", "b", "c"), validation=part("d", "a"), test=part("e", "e", "f"))
    monkeypatch.setattr("kdnative.data.load_dataset", lambda spec: splits)
    assert accuracy.sentences("some.csv", 4) == ["e", "f", "d", "a"]
    with pytest.raises(ValueError, match=r"some.csv has 6 different texts, but --sentences asks for 7"):
        accuracy.sentences("some.csv", 7)
