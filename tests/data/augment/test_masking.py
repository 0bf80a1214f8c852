"""Batches with hidden tokens: how many, which ones, and the same again in a training that goes on."""

from __future__ import annotations

import math

import pytest
import torch

from kdnative.data import Batches, MaskedBatches
from tests.data.test_batches import tokenized

MASK = 98
KEEP = (1, 2)  # what a text begins and ends with


def masked(share=0.3, n=200, seed=0, size=16):
    return MaskedBatches(Batches(tokenized(n), size, shuffle=True, seed=5), share, MASK, KEEP, seed)


def same(a, b):
    pairs = zip([batch.inputs["input_ids"] for batch in a], [batch.inputs["input_ids"] for batch in b], strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_hides_the_share_that_is_asked_for_and_nothing_else():
    hidden = total = 0
    ours = masked()
    for batch, plain in zip(ours.epoch(0), ours.batches.epoch(0), strict=True):
        ids, before = batch.inputs["input_ids"], plain.inputs["input_ids"]
        assert ids.shape == before.shape and ids.dtype == before.dtype
        changed = ids != before
        assert (ids[changed] == MASK).all() and not torch.isin(before[changed], torch.tensor([*KEEP, 99])).any()
        assert torch.equal(batch.inputs["attention_mask"], plain.inputs["attention_mask"])
        assert torch.equal(batch.labels, plain.labels) and torch.equal(batch.index, plain.index)
        hidden, total = hidden + int(changed.sum()), total + int((before == ord("x")).sum())
    assert abs(hidden / total - 0.3) < 5 * math.sqrt(0.21 / total)


def test_epochs_differ_and_repeat():
    ours = masked()
    first, second = list(ours.epoch(0)), list(ours.epoch(1))
    assert len(ours) == len(first) == 13 and not same(first, second)
    assert same(first, list(masked().epoch(0))) and not same(first, list(masked(seed=1).epoch(0)))
    for start in (0, 5, 13):
        assert same(first[start:], list(ours.epoch(0, start)))


def test_nothing_to_hide():
    ours = masked(share=0.0)
    assert same(list(ours.epoch(0)), list(ours.batches.epoch(0)))
    assert list(MaskedBatches(Batches(tokenized(0), 4), 0.5, MASK).epoch(0)) == []


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_impossible_shares(share):
    with pytest.raises(ValueError, match="within 0 and 1"):
        masked(share=share)


def test_fingerprint_says_what_decides_the_batches():
    others = [masked(share=0.2), masked(seed=1), masked(n=199), masked(size=8)]
    others += [MaskedBatches(masked().batches, 0.3, MASK + 1, KEEP), MaskedBatches(masked().batches, 0.3, MASK, (1,))]
    prints = [each.fingerprint for each in (masked(), masked().batches, *others)]
    assert masked().fingerprint == prints[0] and len(set(prints)) == len(prints)
    assert masked().data.fingerprint == masked().batches.data.fingerprint
