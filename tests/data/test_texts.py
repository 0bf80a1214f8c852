"""Texts in memory become data sets, batches of `train`, and batches of torch's DataLoader."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kdnative.data import Batches, DataError, from_texts, tokenize

TEXTS = ["a b c", "a", "b b"]


class Words:
    """A tokenizer that counts letters: a is 1, b is 2 ..., between 90 and 91."""

    pad_token_id = 0
    model_input_names = ("input_ids", "attention_mask")

    def __call__(self, texts, pairs=None, **options):
        second = [""] * len(texts) if pairs is None else pairs
        both = [[*text.split(), *pair.split()] for text, pair in zip(texts, second, strict=True)]
        return {"input_ids": [[90, *(ord(word) - 96 for word in words), 91] for words in both]}


def test_names_are_numbered_in_their_order():
    data = from_texts(TEXTS, ["no", "yes", "maybe"])
    assert data.labels == ("maybe", "no", "yes")
    assert [e.label for e in data] == [1, 2, 0]
    assert [e["text"] for e in data] == TEXTS
    assert from_texts(TEXTS, ["10", "9", "10"]).labels == ("9", "10")
    chosen = from_texts(TEXTS, ["no", "yes", None], label_names=["yes", "no", "never"])
    assert chosen.labels == ("yes", "no", "never")
    assert [e.label for e in chosen] == [1, 0, None]


def test_numbers_are_classes_and_floats_are_targets():
    data = from_texts(TEXTS, [2, 0, None])
    assert data.labels == ("0", "1", "2") and [e.label for e in data] == [2, 0, None]
    assert from_texts(TEXTS, [1, 0, 1], label_names=["bad", "good"]).counts == {"bad": 1, "good": 2}
    targets = from_texts(TEXTS, [0.5, -1.0, None])
    assert targets.labels == () and [e.label for e in targets] == [0.5, -1.0, None]
    assert from_texts(TEXTS).labelled == 0


def test_labels_of_numpy_are_those_of_python():
    whole = from_texts(TEXTS, np.array([2, 0, 1], np.int8))
    assert whole.labels == ("0", "1", "2") and [(type(e.label), e.label) for e in whole] == [
        (int, 2),
        (int, 0),
        (int, 1),
    ]
    targets = from_texts(TEXTS, np.array([0.5, -1.0, 2.0], np.float32))
    assert targets.labels == () and [(type(e.label), e.label) for e in targets][:2] == [(float, 0.5), (float, -1.0)]
    for flags in ([True, False, True], np.array([True, False, True])):
        found = from_texts(TEXTS, flags)
        assert found.labels == ("False", "True") and [e.label for e in found] == [1, 0, 1]
    assert from_texts(TEXTS, np.array(["x", "y", "x"])).labels == ("x", "y")


def test_batches_of_the_training_loop():
    data = tokenize(from_texts(TEXTS, ["x", "y", "x"]), Words())
    (batch,) = Batches(data, 3, by_length=False)
    assert batch.inputs["input_ids"].tolist() == [[90, 1, 2, 3, 91], [90, 1, 91, 0, 0], [90, 2, 2, 91, 0]]
    assert batch.inputs["attention_mask"].sum(1).tolist() == [5, 3, 4]
    assert batch.labels.tolist() == [0, 1, 0]


def test_batches_of_a_data_loader():
    data = tokenize(from_texts(TEXTS, [0.5, None, 2.0], pairs=["c", "c", "a"]), Words())
    first, second = DataLoader(range(len(data)), batch_size=2, collate_fn=data.batch)
    assert first.inputs["input_ids"].tolist() == [[90, 1, 2, 3, 3, 91], [90, 1, 3, 91, 0, 0]]
    assert first.labels[0] == 0.5 and first.labels[1].isnan()
    assert first.index.tolist() == [0, 1] and first.index.dtype == torch.int64
    assert second.inputs["input_ids"].tolist() == [[90, 2, 2, 1, 91]] and second.index.tolist() == [2]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"texts": "a b c"}, "a list of texts is needed, not one text"),
        ({"texts": ["a", " "]}, "text 1 is ' '"),
        ({"texts": ["a", None]}, "text 1 is None"),
        ({"texts": TEXTS, "labels": ["x"]}, "3 texts, but 1 in labels"),
        ({"texts": TEXTS, "pairs": ["x"]}, "3 texts, but 1 in text_pair"),
        ({"texts": TEXTS, "labels": ["x", 1, "x"]}, "labels are of int, str"),
        ({"texts": TEXTS, "labels": [True, 0, True]}, "labels are of int, str"),
        ({"texts": TEXTS, "labels": [["x"], ["y"], ["x"]]}, "labels are of list"),
        ({"texts": TEXTS, "labels": ["x", "y", "z"], "label_names": ["x", "y"]}, "'z' is not in label_names"),
        ({"texts": TEXTS, "labels": [0, 1, 2], "label_names": ["x", "y"]}, "has label 2; there are 2 classes"),
        ({"texts": TEXTS, "labels": [0, -1, 2]}, "has label -1"),
        ({"texts": TEXTS, "labels": [0.5, float("nan"), 1.0]}, "must be a finite number"),
        ({"texts": TEXTS, "labels": [0.5, 1.0, 1.0], "label_names": ["x"]}, "the labels are targets"),
        ({"texts": TEXTS, "labels": ["x", " ", "x"]}, "is empty"),
    ],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(DataError, match=words):
        from_texts(**arguments)
