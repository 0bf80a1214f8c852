"""Calibration data as users have it; padding; keys of rows that depend on no batch."""

import pytest
import torch

from kdnative.data.batches import Batch
from kdnative.quantize.inputs import InputBatch, InputBatches

LENGTHS = (3, 5, 1, 4)


class Words:
    """A tokenizer of numbers between blanks."""

    pad_token_id = 0

    def __call__(self, texts, truncation, max_length, padding=False, return_tensors=None):
        ids = [[int(word) for word in text.split()][:max_length] for text in texts]
        if return_tensors is None:
            return {"input_ids": ids}
        width = max(map(len, ids)) if padding else len(ids[0])
        padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        return {"input_ids": padded, "attention_mask": (padded != 0).long()}


def examples():
    return [torch.arange(1, length + 1) + 10 * i for i, length in enumerate(LENGTHS)]


def padded(rows, width=None, left=False):
    width = width or max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def activation(batch):
    """[B, T, 2]: the token, and NaN in padding."""
    x = batch["input_ids"].float()[..., None].repeat(1, 1, 2)
    x[..., 1][batch["attention_mask"] == 0] = float("nan")
    return x


def rows_of(batches, call=0):
    found = [batch.rows_of(activation(batch.kwargs), call) for batch in InputBatches(batches).all]
    rows, keys, _ = (torch.cat(parts) for parts in zip(*found, strict=True))
    return dict(zip(keys.tolist(), rows[:, 0].tolist(), strict=True))


def test_rows_of_padding_are_left_out():
    batch = padded(examples())
    rows, keys, _ = InputBatch.of(batch, 0).rows_of(activation(batch), 0)
    assert rows[:, 0].tolist() == [1, 2, 3, 11, 12, 13, 14, 15, 21, 31, 32, 33, 34]
    assert bool(torch.isfinite(rows).all()) and len(set(keys.tolist())) == 13


def test_keys_follow_the_examples_whatever_the_batches_are():
    own = examples()
    whole = rows_of([padded(own)])
    assert rows_of([padded(own[2:], width=9), padded(own[:2], left=True)]) == whole
    assert rows_of([padded([row]) for row in reversed(own)]) == whole
    assert rows_of([padded(own)], call=1).keys().isdisjoint(whole)


def test_a_sixteenth_of_the_examples_is_held_out_whatever_the_batches_are():
    def held(batches):
        found = [batch.rows_of(activation(batch.kwargs), 0) for batch in InputBatches(batches).all]
        rows, _, held = (torch.cat(parts) for parts in zip(*found, strict=True))
        return sorted(rows[held, 0].tolist()), sorted({int(row) // 10 for row in rows[held, 0]})

    own = [torch.arange(1, 3 + i % 5) + 10 * i for i in range(47)]
    rows, chosen = held([padded(own)])
    assert len(chosen) == 2 and rows == [value for i in chosen for value in own[i].tolist()]
    assert held([padded(own[30:], width=9), padded(own[:30], left=True)]) == (rows, chosen)
    assert held([padded([row]) for row in reversed(own)]) == (rows, chosen)
    assert held([padded(own), padded(own)]) == (sorted(2 * rows), chosen), "a copy is no other example"
    assert len(held([padded(own[:2])])[1]) == 1 and held([padded(own[:1] * 3)]) == ([], [])


def test_rows_that_are_of_no_example():
    batches = InputBatches([padded(examples())])
    rows, keys, held = batches.all[0].rows_of(torch.arange(2000.0).view(1000, 2)[:999], 0)
    assert len(rows) == len(keys.unique()) == len(held) == 999 and 30 < int(held.sum()) < 95
    for size in range(1, 30):
        assert not bool(batches.all[0].rows_of(torch.ones(1, size), size)[2].any()), "the only row"


def test_rows_without_a_mask_that_fits():
    batch = InputBatch.of(padded(examples()), 0)
    for shape, count in (((4, 6, 2), 24), ((4, 2), 4), ((20, 2), 20), ((2,), 1), ((4, 5, 1, 2), 20)):
        rows, keys, _ = batch.rows_of(torch.ones(shape), 0)
        assert rows.shape == (count, 2) and len(set(keys.tolist())) == count


def test_the_mask_of_a_decoder_counts_where_it_is_the_only_one_of_its_shape():
    both = {**padded(examples()), "decoder_attention_mask": torch.tensor([[1, 1, 1, 0]] * 4)}
    assert len(InputBatch.of(both, 0).rows_of(torch.ones(4, 4, 2), 0)[0]) == 12
    assert len(InputBatch.of(both, 0).rows_of(torch.ones(4, 5, 2), 0)[0]) == sum(LENGTHS)
    both["decoder_attention_mask"] = torch.tensor([[1, 1, 0, 0, 0]] * 4)
    assert len(InputBatch.of(both, 0).rows_of(torch.ones(4, 5, 2), 0)[0]) == 20, "nobody knows which mask it is"


def test_what_a_batch_may_be():
    model, seen = torch.nn.Identity(), []
    model.forward = lambda *args, **kwargs: seen.append((args, kwargs))
    x = torch.ones(2, 3)
    given = [x, (x, x), [x], {"x": x, "flag": True}, Batch({"x": x}, None, torch.arange(2))]
    for batch in InputBatches(given).all:
        batch.call(model, torch.device("cpu"))
    assert [(len(args), set(kwargs)) for args, kwargs in seen] == [
        (1, set()),
        (2, set()),
        (1, set()),
        (0, {"x", "flag"}),
        (0, {"x"}),
    ]
    assert InputBatches(iter(given)).examples == 10


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ("a text", TypeError, "calibration is a str"),
        ({"input_ids": torch.ones(2, 2)}, TypeError, "calibration is a dict, not a list of batches"),
        (torch.ones(2, 2), TypeError, "calibration is a Tensor"),
        (7, TypeError, "calibration is a int"),
        ([], ValueError, "holds no data"),
        (iter(()), ValueError, "a generator can be read only once"),
        ([7], TypeError, "batch 0 of calibration is a int"),
        (["a text", torch.ones(1, 2)], TypeError, "batch 0 of calibration is a str"),
        (["a text"], ValueError, "tokenizer="),
        ([{"x": 3}], ValueError, "batch 0 of calibration holds no values"),
        ([torch.ones(2, 2), torch.ones(0, 2)], ValueError, "batch 1 of calibration holds no values"),
        ([{"input_ids": torch.ones(2, 2), "attention_mask": torch.zeros(2, 2)}], ValueError, "only padding"),
    ],
)
def test_what_is_no_data_is_said_in_words(given, kind, words):
    with pytest.raises(kind, match=words):
        InputBatches(given)


def test_texts():
    found = InputBatches(["1", "2 3 4 5", "", "6 7"], Words(), max_length=3, batch_size=2).all
    assert [batch.kwargs["input_ids"].tolist() for batch in found] == [[[2, 3, 4], [6, 7, 0]], [[1]]]
    with pytest.raises(ValueError, match="holds no data"):
        InputBatches(["", ""], Words())
    with pytest.raises(ValueError, match="max_length=0"):
        InputBatches(["1"], Words(), max_length=0)


def test_texts_of_a_tokenizer_without_padding():
    class Bare(Words):
        pad_token_id = None

    found = InputBatches(["1 2", "3"], Bare()).all
    assert [batch.kwargs["input_ids"].tolist() for batch in found] == [[[1, 2]], [[3]]]


def test_a_dict_among_the_arguments():
    """As sentence-transformers has it, whose models write into it."""

    def changing(features):
        seen.append(sorted(features))
        features["more"] = 1

    model, seen, batch = torch.nn.Identity(), [], padded(examples())
    model.forward = changing
    found = InputBatch.of((batch,), 0)
    for _ in range(2):
        found.call(model, torch.device("cpu"))
    assert seen == [["attention_mask", "input_ids"]] * 2
    assert len(found.rows_of(activation(batch), 0)[0]) == sum(LENGTHS)
    first, second = InputBatches([(batch,)]), InputBatches([(padded(examples()[:3]),)])
    assert first.digest() != second.digest() != InputBatches([(padded(examples()[1:]),)]).digest()


def test_the_digest_is_that_of_the_values():
    first = InputBatches([padded(examples())]).digest()
    assert InputBatches([padded(examples())]).digest() == first
    assert InputBatches([padded(examples()[:3])]).digest() != first
    assert InputBatches([{**padded(examples()), "flag": True}]).digest() != first
