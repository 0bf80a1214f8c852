"""Evaluation mode for a while, whatever happens inside."""

import pytest
import torch
from torch import nn

from kdnative.nn.modes import evaluating


def models():
    mixed = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    mixed[1].eval()
    mixed[1][1].train()
    return mixed, nn.Dropout().eval()


def test_each_module_has_its_own_mode_back():
    several = models()
    before = [[m.training for m in model.modules()] for model in several]
    assert before == [[True, True, False, False, True], [False]]
    with evaluating(*several):
        assert not any(m.training for model in several for m in model.modules())
        assert not torch.is_grad_enabled()
    assert [[m.training for m in model.modules()] for model in several] == before
    assert torch.is_grad_enabled()


def test_after_an_error_too():
    (mixed, _) = models()
    before = [m.training for m in mixed.modules()]
    with pytest.raises(RuntimeError, match="inside"), evaluating(mixed):
        raise RuntimeError("inside")
    assert [m.training for m in mixed.modules()] == before and torch.is_grad_enabled()


def test_gradients_can_be_asked_for_inside():
    x = torch.ones(2, requires_grad=True)
    with evaluating(nn.Identity()), torch.enable_grad():
        (2 * x).sum().backward()
    assert x.grad.tolist() == [2, 2]
