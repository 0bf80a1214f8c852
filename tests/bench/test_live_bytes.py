"""Counting of live tensors: temporaries, views, what is changed in place, and the backward pass."""

from __future__ import annotations

import pytest
import torch

from kdnative.bench.live_bytes import LiveBytes


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_peak_and_what_is_left(device):
    given = torch.zeros(100, device=device)
    with LiveBytes() as counter:
        first = given + 1
        assert (counter.live, counter.peak) == (400, 400)
        view = first[10:]
        first.mul_(2)
        assert counter.live == 400, "views and changes in place are of the same bytes"
        second = given + view.sum()
        del first
        assert counter.live == 800, "the view keeps its bytes"
        del view, second
        assert (counter.live, counter.peak) == (0, 804)
        given.add_(1)
        assert counter.live == 0, "what was there before isn't counted"


def test_gradients():
    x = torch.zeros(100, device="meta", requires_grad=True)
    with LiveBytes() as counter:
        (x * 2).exp().sum().backward()
        assert counter.live == x.grad.nbytes
    assert counter.peak >= 800
