"""Dropout with cheap random numbers: its distribution, its gradient, and where it takes the place of torch's."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from kdnative.data import Batches
from kdnative.distill import HardLabelLoss, TrainConfig, train
from kdnative.distill.dropout import FastDropout, dropout, fast_dropout
from tests.distill.tiny import model, tokens


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1_000_003,), (1000, 7, 143)])
def test_as_many_are_dropped_as_asked_for_and_the_mean_stays(p, shape):
    torch.manual_seed(0)
    x = torch.ones(shape)
    y = dropout(x, p)
    n = x.numel()
    kept = y != 0
    deviation = math.sqrt(p * (1 - p) / n)
    assert abs(1 - kept.double().mean() - p) < 5 * deviation + 2**-17
    assert y[kept].unique().numel() == 1 and y[kept][0] == pytest.approx(1 / (1 - p), rel=2**-17 / (1 - p) + 1e-6)
    assert abs(y.double().mean() - 1) < 5 * deviation / (1 - p)


def test_neighbours_are_independent():
    """Four elements share one draw."""
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(4_000_000), 0.3) == 0).double()
    for distance in (1, 2, 3, 4, 8):
        both = (dropped[:-distance] * dropped[distance:]).mean()
        assert abs(both - 0.09) < 5 * math.sqrt(0.09 * 0.91 / len(dropped))
    for lane in range(4):
        assert abs(dropped[lane::4].mean() - 0.3) < 5 * math.sqrt(0.21 / 1_000_000)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0,), (5, 0), (7, 11), (2, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_shapes_and_types(shape, dtype):
    x = torch.randn(shape).to(dtype)
    y = dropout(x, 0.25)
    assert y.shape == x.shape and y.dtype == dtype
    assert torch.equal(y[y != 0], (x * (4 / 3))[y != 0])


def test_strided_input():
    x = torch.randn(6, 8).t()[::2]
    torch.manual_seed(3)
    expected = dropout(x.contiguous(), 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), expected)


def test_nothing_and_everything():
    x = torch.randn(9)
    assert dropout(x, 0.0) is x and dropout(x, 1e-7) is x
    assert not dropout(x, 1.0).any() and not dropout(x, 1 - 1e-7).any()


def test_seeds_repeat_and_gradients_pass_where_values_do():
    x = torch.randn(50, 30, requires_grad=True)
    torch.manual_seed(5)
    y = dropout(x, 0.4)
    y.backward(torch.full_like(y, 2.0))
    kept = y != 0
    assert torch.equal(x.grad != 0, kept) and x.grad[kept] == pytest.approx(2 / 0.6, rel=1e-4)
    torch.manual_seed(5)
    assert torch.equal(dropout(x, 0.4), y)
    assert not torch.equal(dropout(x, 0.4), y)


# -- in the place of torch's -------------------------------------------------------------------------------------------


def test_modules_are_swapped_for_a_while():
    x, net = torch.randn(40, 10), nn.Sequential(nn.Linear(10, 10), nn.Dropout(0.2), nn.Dropout(0.2, inplace=True))
    torch.manual_seed(0)
    ours = dropout(x, 0.2)
    torch.manual_seed(0)
    theirs = F.dropout(x, 0.2)
    assert not torch.equal(ours, theirs)
    with pytest.raises(KeyError), fast_dropout(net):
        assert [type(module) for module in net] == [nn.Linear, FastDropout, FastDropout]
        torch.manual_seed(0)
        assert torch.equal(net[1](x), ours)
        assert torch.equal(net[1].eval()(x), x)
        inplace = x.clone()
        torch.manual_seed(0)
        assert net[2](inplace) is inplace and torch.equal(inplace, theirs)
        raise KeyError
    assert [type(module) for module in net] == [nn.Linear, nn.Dropout, nn.Dropout]
    torch.manual_seed(0)
    assert torch.equal(net[1].train()(x), theirs)


def test_classes_of_others_and_compiled_models_keep_theirs():
    class Own(nn.Dropout):
        pass

    with fast_dropout(own := Own()):
        assert type(own) is Own
    in_place = nn.Sequential(nn.Dropout())
    in_place.compile(backend="eager")
    for compiled in (in_place, torch.compile(nn.Sequential(nn.Dropout()), backend="eager")):
        with fast_dropout(compiled):
            assert FastDropout not in map(type, compiled.modules())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_activations_are_the_same_again(reentrant):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8))
    x, gradients = torch.randn(16, 8, requires_grad=True), []
    for call in (net, partial(checkpoint, net, use_reentrant=reentrant)):
        net.zero_grad()
        torch.manual_seed(1)
        with fast_dropout(net):
            call(x).sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_training_uses_it(monkeypatch):
    calls = []
    monkeypatch.setattr("kdnative.distill.dropout.dropout", lambda x, p: calls.append(p) or x)
    student = model(0, dropout=0.3)
    train(student, Batches(tokens(16), 8), HardLabelLoss(), TrainConfig(1, 1e-2, device="cpu", precision="fp32"))
    assert calls == [0.3, 0.3] and type(student.dropout) is nn.Dropout
