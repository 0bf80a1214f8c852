"""Tokenised datasets, padding, and the order of batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdnative.data import Batches, DataError, Dataset, Example, TokenizedDataset, collate, tokenize


def example(text, label, id):
    return Example({"text": text, "label": label}, id)


class Words:
    """A tokenizer with the interface of Hugging Face's: every letter is a token, between 1 and 2; padding is 99."""

    pad_token_id = 99
    model_input_names = ("input_ids", "token_type_ids")

    def __call__(self, texts, truncation, max_length, **options):
        assert truncation and options == {"return_attention_mask": False, "return_token_type_ids": False}
        return {"input_ids": [[1, *(ord(c) for c in t[: max_length - 2]), 2] for t in texts]}


def dataset(lengths, labelled=True):
    examples = [example("x" * n, i % 2 if labelled else None, str(i)) for i, n in enumerate(lengths)]
    return Dataset(examples, ("a", "b") if labelled else ())


def tokenized(n=100, seed=0):
    return tokenize(dataset(np.random.default_rng(seed).integers(1, 40, n)), Words(), 64)


def test_tokens_of_every_example():
    found = tokenize(Dataset([example("ab", 1, "1"), example("", 0, "2"), example("abcdef", 1, "3")], "xy"), Words(), 5)
    assert [found[i].tolist() for i in (0, 1, 2)] == [[1, 97, 98, 2], [1, 2], [1, 97, 98, 99, 2]]
    assert found[-1].tolist() == found[2].tolist() and found.lengths.tolist() == [4, 2, 5]
    assert found.labels.tolist() == [1, 0, 1] and found.label_names == ("x", "y")
    with pytest.raises(IndexError):
        found[3]


def test_empty_and_unlabelled():
    assert len(tokenize(Dataset([]), Words())) == 0
    assert list(Batches(tokenize(Dataset([]), Words()), 4)) == []
    assert next(iter(Batches(tokenize(dataset([3], False), Words()), 4))).labels is None


def test_bad_tokenizer_length_and_sizes():
    silent = Words()
    silent.pad_token_id = None
    with pytest.raises(DataError, match="no padding token"):
        tokenize(dataset([1]), silent)
    with pytest.raises(ValueError, match="max_length=1"):
        tokenize(dataset([1]), Words(), 1)
    with pytest.raises(ValueError, match="batch_size=0"):
        Batches(tokenized(4), 0)
    with pytest.raises(ValueError, match="multiple=0"):
        collate([], 0, 0)


def test_fingerprint_sees_tokens_texts_and_padding():
    base = tokenized()
    ids = base.ids.copy()
    ids[-1] += 1
    others = [
        TokenizedDataset(ids, base.offsets, base.labels, base.pad_id, base.source),
        TokenizedDataset(base.ids, base.offsets, base.labels, 0, base.source),
        tokenize(base.source, Words(), 10),
        tokenized(seed=1),
    ]
    assert base.fingerprint == tokenized().fingerprint
    assert len({base.fingerprint, *(o.fingerprint for o in others)}) == 5


def test_collate_pads_on_the_right():
    found = collate([np.array([5, 6, 7]), np.array([8])], 99, 4)
    assert found["input_ids"].tolist() == [[5, 6, 7, 99], [8, 99, 99, 99]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert found["input_ids"].dtype == found["attention_mask"].dtype == torch.int64
    assert collate([np.array([5, 6, 7])], 0)["input_ids"].shape == (1, 3)
    assert collate([], 0)["input_ids"].shape == (0, 0)


@pytest.mark.parametrize("n", [1, 7, 8, 100, 1100])
@pytest.mark.parametrize(
    "options", [{}, {"by_length": False}, {"shuffle": True}, {"shuffle": True, "by_length": False}]
)
def test_every_example_once_in_each_epoch(n, options):
    batches = Batches(tokenized(n), 8, **options)
    for epoch in (0, 1):
        order = batches.order(epoch)
        assert sorted(np.concatenate(order).tolist()) == list(range(n))
        assert len(order) == len(batches)
        assert sorted(map(len, order))[1:] == [8] * (len(order) - 1), "at most one batch is smaller"


def test_batches_hold_the_examples_they_say():
    data = tokenized()
    for batch in Batches(data, 8, shuffle=True, multiple=8):
        assert batch.inputs["input_ids"].shape[1] % 8 == 0
        for row, mask, label, i in zip(*batch.inputs.values(), batch.labels, batch.index, strict=True):
            assert row[mask.bool()].tolist() == data[int(i)].tolist()
            assert int(label) == data.labels[int(i)]
        assert len(batch.to("cpu")) == len(batch)


def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        return [row.tolist() for row in Batches(tokenized(), 8, shuffle=True, seed=seed).order(epoch)]

    batches = Batches(tokenized(), 8, shuffle=True, seed=1)
    torch.rand(3)
    assert [b.index.tolist() for b in batches.epoch(2)] == order(1, 2)
    assert [b.index.tolist() for b in batches.epoch(2, 5)] == order(1, 2)[5:]
    assert order(1, 2) != order(1, 3) and order(1, 2) != order(2, 2)


def test_similar_lengths_come_together():
    data = tokenized(2000)
    padded = {}
    for by_length in (True, False):
        order = Batches(data, 16, shuffle=True, by_length=by_length).order(0)
        padded[by_length] = sum(len(rows) * data.lengths[rows].max() for rows in order) / data.lengths.sum()
    assert padded[True] < 1.05 and padded[False] > 1.5
    assert np.std([data.lengths[r].mean() for r in Batches(data, 16, shuffle=True).order(0)][:10]) > 3, "not sorted"


def test_without_shuffling_the_longest_come_first():
    data = tokenized()
    assert [b.inputs["input_ids"].shape[1] for b in Batches(data, 8)] == sorted(
        (b.inputs["input_ids"].shape[1] for b in Batches(data, 8)), reverse=True
    )
    assert next(iter(Batches(data, 8, by_length=False))).index.tolist() == list(range(8))


def test_fingerprint_of_batches_sees_what_decides_them():
    data = tokenized()
    options = [{}, {"shuffle": True}, {"seed": 1}, {"by_length": False}, {"multiple": 8}]
    found = [Batches(data, 8, **o).fingerprint for o in options] + [Batches(data, 4).fingerprint]
    assert len(set(found)) == 6
    assert Batches(data, 8).fingerprint == found[0]


class Joined(Words):
    """The two texts of a pair between 1, 2 and 2; types unless the model reads none."""

    def __call__(self, texts, pairs, truncation, max_length, return_attention_mask, return_token_type_ids):
        assert truncation and not return_attention_mask
        ids = [[1, *map(ord, a), 2, *map(ord, b), 2] for a, b in zip(texts, pairs, strict=True)]
        types = [[0] * (len(a) + 2) + [1] * (len(b) + 1) for a, b in zip(texts, pairs, strict=True)]
        return {"input_ids": ids, **({"token_type_ids": types} if return_token_type_ids else {})}


def pairs():
    texts = [("ab", "c"), ("d", "efg")]
    return Dataset([Example({"text": a, "text_pair": b, "label": 0.5 * i}, a) for i, (a, b) in enumerate(texts)])


def test_pairs_are_one_row_with_token_types():
    found = tokenize(pairs(), Joined())
    batch = next(iter(Batches(found, 2, by_length=False, multiple=4)))
    assert batch.inputs["input_ids"].tolist() == [[1, 97, 98, 2, 99, 2, 99, 99], [1, 100, 2, 101, 102, 103, 2, 99]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 0]]
    assert batch.inputs["attention_mask"].sum(1).tolist() == [6, 7]
    assert batch.labels.dtype == torch.float32 and batch.labels.tolist() == [0.0, 0.5]


def test_a_model_without_token_types_gets_none():
    tokenizer = Joined()
    tokenizer.model_input_names = ("input_ids", "attention_mask")
    found = tokenize(pairs(), tokenizer)
    assert set(next(iter(Batches(found, 2))).inputs) == {"input_ids", "attention_mask"}
    assert found.fingerprint != tokenize(pairs(), Joined()).fingerprint


def test_labels_that_are_missing():
    classes = Dataset([example("a", 1, "1"), example("b", None, "2")], ("x", "y"))
    assert tokenize(classes, Words()).labels.tolist() == [1, -100]
    targets = tokenize(Dataset([example("a", 1.5, "1"), example("b", None, "2")]), Words()).labels
    assert targets.dtype == np.float32 and targets[0] == 1.5 and np.isnan(targets[1])
