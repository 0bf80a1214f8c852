"""Any part of any data, with its labels, as a model takes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdnative.data import Batches, from_texts, tokenize
from kdnative.precision.examples import Examples, call
from kdnative.precision.metrics import answers
from tests.bench.test_gate_suite import Words, texts
from tests.distill.tiny import model, tokens


class Sum(nn.Module):
    """Two classes of the sum of all its inputs, so that every row of every input counts."""

    def forward(self, a, b, scale=1.0):
        total = a.flatten(1).sum(1) * scale + b.flatten(1).sum(1)
        return torch.stack([total, -total], 1)


def batches(kind, sizes=(3, 1, 4)):
    generator = torch.Generator().manual_seed(0)
    made = [(torch.randn(n, 2, 3, generator=generator), torch.randn(n, 5, generator=generator).t().t()) for n in sizes]
    return [{"a": a, "b": b, "scale": 2.0} if kind is dict else (a, b) for a, b in made]


@pytest.mark.parametrize("kind", [dict, tuple])
def test_rows_of_batches_are_taken_from_every_tensor(kind):
    data = batches(kind)
    found = Examples.of(data)
    assert len(found) == 8 and found.labels is None
    scale = 2.0 if kind is dict else 1.0
    a, b = (torch.cat([list(x.values())[i] if kind is dict else x[i] for x in data]) for i in (0, 1))
    whole = a.flatten(1).sum(1) * scale + b.sum(1)
    for rows in ([0, 1, 2, 3, 4, 5, 6, 7], [5, 3, 0], [7]):
        part = answers(Sum(), found, np.array(rows))
        assert torch.allclose(part.joined()[:, 0], whole[sorted(rows)])
        again = found.part(np.array(rows))
        assert torch.equal(answers(Sum(), again, np.arange(len(rows))).joined(), part.joined())


def test_a_tensor_is_one_argument_and_labels_of_batches_are_taken_out():
    x = torch.randn(6, 4)
    found = Examples.of(
        [{"input": x[:4], "labels": torch.tensor([0, 1, 1, 0])}, {"input": x[4:], "labels": torch.ones(2)}]
    )
    assert found.labels.tolist() == [0, 1, 1, 0, 1, 1]
    net = nn.Linear(4, 2)
    assert torch.allclose(answers(net, found, np.array([4, 1])).joined(), net(x[[1, 4]]))
    plain = Examples.of([x[:4], x[4:]], labels=torch.arange(6))
    assert torch.allclose(answers(net, plain, np.arange(6)).joined(), net(x)) and plain.labels.tolist() == list(
        range(6)
    )
    assert plain.part(np.array([5, 2])).labels.tolist() == [2, 5]


def test_texts_are_tokenized_and_run_in_batches_of_like_lengths():
    sentences = [*texts(5), "7 8", "9"]
    found = Examples.of(sentences, tokenizer=Words(), max_length=4)
    data = tokenize(from_texts(sentences), Words(), 4)
    order = [rows.tolist() for _, rows in found.batches(np.arange(7), 3)]
    assert sorted(sum(order, [])) == list(range(7)) and order[-1] == [6]
    inputs, rows = next(found.batches(np.array([6, 5]), 3))
    assert rows.tolist() == [5, 6] and inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert np.array_equal(data[0], next(found.batches(np.array([0])))[0]["input_ids"][0].numpy())


def test_data_of_the_package_keeps_labels_and_names():
    data = tokens(20)
    for given in (data, Batches(data, 4, shuffle=True)):
        found = Examples.of(given)
        assert np.array_equal(found.labels, data.labels) and found.label_names == ("low", "high")
    whole = answers(model(0), found, np.arange(20)).joined()
    some = answers(model(0), found, np.array([13, 2]), batch_size=1).joined()
    assert torch.allclose(some, whole[[2, 13]], atol=1e-6)


def test_a_sentence_transformer_takes_the_dictionary_whole():
    class SentenceTransformer(nn.Module):
        def forward(self, features):
            return {**features, "sentence_embedding": features["input_ids"].float()}

    ids = torch.arange(6).view(3, 2)
    found = answers(SentenceTransformer(), Examples.of([{"input_ids": ids}]), np.arange(3))
    assert found.kind == "embeddings" and torch.equal(found.joined(), ids.float())


def test_what_is_read_of_the_output_can_be_said():
    x = torch.randn(4, 3)
    found = answers(
        nn.Identity(), Examples.of([x]), np.arange(4), read=lambda output, inputs: output[:, :1] + inputs[:, 1:2]
    )
    assert found.kind == "own" and torch.equal(found.joined(), x[:, :1] + x[:, 1:2])
    with pytest.raises(ValueError, match=r"gave \[3, 4\] for 4 examples"):
        answers(nn.Identity(), Examples.of([x]), np.arange(4), read=lambda output, _: output.t())
    assert call(nn.Identity(), x) is x


def test_what_is_no_data():
    with pytest.raises(TypeError, match="is a int: give texts with a tokenizer"):
        Examples.of(3)
    with pytest.raises(ValueError, match=r"data\[0\] holds no tensor with a batch dimension"):
        Examples.of([{"a": 1}])
    with pytest.raises(TypeError, match="not one Tensor"):
        Examples.of(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="has no padding token"):
        Examples.of(["1 2"], tokenizer=type("Bare", (Words,), {"pad_token_id": None})())
    with pytest.raises(ValueError, match="text 1 is"):
        Examples.of(["1 2", ""], tokenizer=Words())
